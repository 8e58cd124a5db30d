-- Make a snapshot the one that counts, keep the one before it as a fallback, and trim the log up to
-- that fallback.
-- KEYS  1 {p}:manifest  2 {p}:manifest:previous  3 {p}:trimmed  4 {p}:log  5 {p}:owner
-- ARGV  1 fence  2 manifest  3 previous manifest ('' = none)  4 position of the previous one
-- Raises FENCED.

if redis.call('HGET', KEYS[5], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3])
  redis.call('SET', KEYS[3], ARGV[4])
  -- MINID keeps entries from that id on; the position itself is folded and may stay.
  redis.call('XTRIM', KEYS[4], 'MINID', ARGV[4])
end
return 1
