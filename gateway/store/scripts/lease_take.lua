-- Lease the lowest free number of a role for one process start.
-- KEYS  1 {leases}  2 {leases}:info  3 {leases}:start
-- ARGV  1 role  2 highest number  3 lease ms  4 what the holder says of itself (JSON object)
-- Returns {number, start, now_ms}; number 0 if none is free.
-- An edge's number stays taken until every partition has folded its end (lease_folded.lua); other
-- roles' numbers are free as soon as the lease has run out.

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
for number = 1, tonumber(ARGV[2]) do
  local member = ARGV[1] .. ':' .. number
  local expiry = redis.call('ZSCORE', KEYS[1], member)
  if not expiry or (ARGV[1] ~= 'edge' and tonumber(expiry) < now_ms) then
    local start = redis.call('INCR', KEYS[3])
    local info = cjson.decode(ARGV[4])
    info.start = start
    redis.call('ZADD', KEYS[1], now_ms + ARGV[3], member)
    redis.call('HSET', KEYS[2], member, cjson.encode(info))
    return { number, start, string.format('%.0f', now_ms) }
  end
end
return { 0, 0, string.format('%.0f', now_ms) }
