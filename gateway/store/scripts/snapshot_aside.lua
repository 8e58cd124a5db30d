-- Set a manifest aside that cannot be read, under the owner's fence: an owner that was deposed while
-- it was loading meets chunks that its heir has dropped, and must not take the heir's manifest away.
-- KEYS  1 {p}:manifest or {p}:manifest:previous  2 {p}:manifest:corrupt  3 {p}:owner
-- ARGV  1 fence
-- Raises FENCED.

if redis.call('HGET', KEYS[3], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
return 1
