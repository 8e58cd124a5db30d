-- All leases as they stand.
-- KEYS  1 {leases}  2 {leases}:info
-- Returns {now_ms, member, expiry_ms, info, member, ...}.

local now = redis.call('TIME')
local out = { string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) }
local rows = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #rows, 2 do
  out[#out + 1] = rows[i]
  out[#out + 1] = rows[i + 1]
  out[#out + 1] = redis.call('HGET', KEYS[2], rows[i]) or '{}'
end
return out
