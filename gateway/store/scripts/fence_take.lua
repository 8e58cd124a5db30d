-- Become the owner of a partition.
-- KEYS  1 {p}:owner
-- ARGV  1 node number  2 start
-- Returns the fencing token, greater than any before.

local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'start', ARGV[2])
return fence
