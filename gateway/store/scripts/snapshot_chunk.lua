-- Write chunks of a snapshot (at most 256 KiB together) under the owner's fence.
-- KEYS  1 {p}:chunks  2 {p}:owner
-- ARGV  1 fence  then name@version, bytes of each, at most 256 of them
-- Raises FENCED.

if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
return redis.call('HSET', KEYS[1], unpack(ARGV, 2))
