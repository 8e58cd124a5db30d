-- Drop chunks that no snapshot refers to any more.
-- KEYS  1 {p}:chunks  2 {p}:owner
-- ARGV  1 fence  then name@version of each, at most 256 of them
-- Raises FENCED.

if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
return redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
