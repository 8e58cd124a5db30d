-- End a lease: its holder leaves, or has been found expired by one who may judge.
-- KEYS  1 {leases}  2 {leases}:info
-- ARGV  1 role:number  2 start  3 'left' or 'expired'
-- Returns 1 if the lease is over, 0 if it stands (renewed meanwhile, or another start's).

local info = redis.call('HGET', KEYS[2], ARGV[1])
if not info then
  return 0
end
info = cjson.decode(info)
if info.start ~= tonumber(ARGV[2]) then
  return 0
end
if ARGV[3] == 'expired' then
  local now = redis.call('TIME')
  local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0') >= now_ms then
    return 0
  end
end
if string.sub(ARGV[1], 1, 5) == 'edge:' then
  info.down = true
  redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(info))
  redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
else
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
