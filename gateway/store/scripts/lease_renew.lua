-- Renew a lease.
-- KEYS  1 {leases}  2 {leases}:info
-- ARGV  1 role:number  2 start  3 lease ms  4 what the holder says of itself anew (JSON object; '' = nothing)
-- Returns now_ms; '' if the lease is lost (taken by another start, or declared down).

local info = redis.call('HGET', KEYS[2], ARGV[1])
if not info then
  return ''
end
info = cjson.decode(info)
if info.start ~= tonumber(ARGV[2]) or info.down then
  return ''
end
if ARGV[4] ~= '' then
  for name, value in pairs(cjson.decode(ARGV[4])) do
    info[name] = value
  end
  redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(info))
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[1], 'XX', now_ms + ARGV[3], ARGV[1])
return string.format('%.0f', now_ms)
