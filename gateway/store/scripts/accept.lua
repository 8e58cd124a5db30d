-- Accept a push that concerns several partitions, or carries an idempotency key: claim and accept
-- in one step.
-- KEYS  1 {h}:push:{id}  2 {h}:fanouts  3 {h}:idem:{digest} (or the push record again: no key)
--       4 {h}:log
-- ARGV  1 push id  2 digest of the body ('' = no idempotency key)  3 answer  4 ms the key is kept
--       5 ms the record is kept  6 app number  7 ttl_s  8 audience  9 content  10 options
--       11 most entries of the log
--       then for each partition to reach: partition, indexes (u32 LE each; '' with an audience)
-- Returns {1, accepted_ms}; or {0, "push_id digest answer"} of the call that came first. Raises LOGFULL: accepted pushes would
-- wait for a log that takes none.

if ARGV[2] ~= '' then
  local winner = redis.call('GET', KEYS[3])
  if winner then
    return { 0, winner }
  end
end
-- A repetition of this very call after a lost reply.
local before = redis.call('HGET', KEYS[1], 'accepted_ms')
if before then
  return { 1, before }
end
local limit = tonumber(ARGV[11])
-- What waits for the full log of another partition is a queue as well.
if limit > 0 and (redis.call('XLEN', KEYS[4]) >= limit or redis.call('ZCARD', KEYS[2]) >= limit) then
  return redis.error_reply('LOGFULL the log of the partition has ' .. limit .. ' entries or more')
end
local now = redis.call('TIME')
local now_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
local fields = { 'app', ARGV[6], 'ttl_s', ARGV[7], 'audience', ARGV[8], 'content', ARGV[9],
  'options', ARGV[10], 'accepted_ms', now_ms, 'left', (#ARGV - 11) / 2 }
for at = 12, #ARGV, 2 do
  fields[#fields + 1] = 't:' .. ARGV[at]
  fields[#fields + 1] = ARGV[at + 1]
end
for at = 1, #fields, 1000 do
  redis.call('HSET', KEYS[1], unpack(fields, at, math.min(at + 999, #fields)))
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if #ARGV > 11 then
  redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
end
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
end
return { 1, now_ms }
