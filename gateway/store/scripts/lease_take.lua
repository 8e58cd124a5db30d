-- Lease the lowest free number of a role for one process start.
-- KEYS  1 {leases}  2 {leases}:info  3 {leases}:start  4 {leases}:request:{r}
-- ARGV  1 role  2 highest number  3 lease ms  4 what the holder says of itself (JSON object)
-- Returns {number, start, now_ms}; number 0 if none is free. Asked again under the same request, after a
-- lost reply, it is the same lease, renewed: another one would leave a holder behind that nobody is.
-- An edge's number stays taken until every partition has folded its end (lease_folded.lua). Of the
-- other roles one that has run out is taken only when no other is left: after the store's own
-- downtime every lease looks expired, and who starts just then may judge nobody.

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local before = redis.call('GET', KEYS[4])
if before then
  local number, start = string.match(before, '^(%d+) (%d+)$')
  local member = ARGV[1] .. ':' .. number
  local info = redis.call('HGET', KEYS[2], member)
  info = info and cjson.decode(info)
  if info and info.start == tonumber(start) and not info.down then
    redis.call('ZADD', KEYS[1], 'XX', now_ms + ARGV[3], member)
    redis.call('PEXPIRE', KEYS[4], ARGV[3])
    return { tonumber(number), tonumber(start), string.format('%.0f', now_ms) }
  end
end
local number
for candidate = 1, tonumber(ARGV[2]) do
  local expiry = redis.call('ZSCORE', KEYS[1], ARGV[1] .. ':' .. candidate)
  if not expiry then
    number = candidate
    break
  end
  if not number and ARGV[1] ~= 'edge' and tonumber(expiry) < now_ms then
    number = candidate
  end
end
if not number then
  return { 0, 0, string.format('%.0f', now_ms) }
end
local member = ARGV[1] .. ':' .. number
local start = redis.call('INCR', KEYS[3])
local info = cjson.decode(ARGV[4])
info.start = start
redis.call('ZADD', KEYS[1], now_ms + ARGV[3], member)
redis.call('HSET', KEYS[2], member, cjson.encode(info))
redis.call('SET', KEYS[4], number .. ' ' .. start, 'PX', ARGV[3])
return { number, start, string.format('%.0f', now_ms) }
