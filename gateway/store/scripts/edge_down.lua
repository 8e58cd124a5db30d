-- Declare one start of an edge dead in this partition: fence it off and tell the log, once.
-- From here on `register` and `append` of that start are refused.
-- KEYS  1 {p}:log  2 {p}:producers  3 {p}:owner
-- ARGV  1 edge number  2 start  3 record  4 fence
-- Returns the entry's id; '' if it was declared before. Raises FENCED (the caller is not the owner).

if redis.call('HGET', KEYS[3], 'fence') ~= ARGV[4] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
local fenced = redis.call('HGET', KEYS[2], ARGV[1] .. '!')
if fenced and tonumber(fenced) >= tonumber(ARGV[2]) then
  return ''
end
redis.call('HSET', KEYS[2], ARGV[1] .. '!', ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[1] .. 's', ARGV[1] .. 'u')
return redis.call('XADD', KEYS[1], '*', 'r', ARGV[3])
