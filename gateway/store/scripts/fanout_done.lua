-- Note that a push stands in the logs of these partitions.
-- KEYS  1 {h}:push:{id}  2 {h}:fanouts
-- ARGV  1 push id  then partitions
-- Returns how many partitions are left.

local left
for i = 2, #ARGV do
  if redis.call('HDEL', KEYS[1], 't:' .. ARGV[i]) == 1 then
    left = redis.call('HINCRBY', KEYS[1], 'left', -1)
  end
end
left = left or tonumber(redis.call('HGET', KEYS[1], 'left') or '0')
if left <= 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return left
