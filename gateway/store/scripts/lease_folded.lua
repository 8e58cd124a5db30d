-- A partition has folded the end of an edge; when all have, the number is free again.
-- KEYS  1 {leases}  2 {leases}:info  3 {leases}:folded:{n}
-- ARGV  1 edge number  2 start  3 partition  4 number of partitions
-- Returns 1 if the number became free.

local member = 'edge:' .. ARGV[1]
local info = redis.call('HGET', KEYS[2], member)
if not info or cjson.decode(info).start ~= tonumber(ARGV[2]) then
  return 0
end
redis.call('SADD', KEYS[3], ARGV[3])
if redis.call('SCARD', KEYS[3]) < tonumber(ARGV[4]) then
  return 0
end
redis.call('DEL', KEYS[3])
redis.call('HDEL', KEYS[2], member)
redis.call('ZREM', KEYS[1], member)
return 1
