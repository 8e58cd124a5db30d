-- Admission of an append, shared by all scripts that write a log.
-- A producer is number + channel; its incarnation is a start, its calls are counted by seq.
-- Returns true for a new call, false for a repetition; or nil and the error to return: FENCED, or LOGFULL
-- where the log has `limit` entries already (0 = no limit). Refused as full, the call counts as never made.
-- u64 values stay strings; starts and seqs are counters below 2^53 and fit a double.

local function admit(producers, number, channel, start, seq, log, limit)
  local got = redis.call('HMGET', producers, number .. '!', number .. channel)
  -- Numbers are leased by role. Only edges are declared down, and theirs are the channels s and u:
  -- node 1 and API process 1 have nothing to do with the end of edge 1.
  local of_edge = channel == 's' or channel == 'u'
  if of_edge and got[1] and tonumber(start) <= tonumber(got[1]) then
    return nil, redis.error_reply('FENCED this edge has been declared down')
  end
  if got[2] then
    local last_start, last_seq = string.match(got[2], '^(%d+) (%d+)$')
    if tonumber(start) < tonumber(last_start) then
      return nil, redis.error_reply('FENCED a newer start stands against this producer')
    end
    if tonumber(start) == tonumber(last_start) and tonumber(seq) <= tonumber(last_seq) then
      return false
    end
  end
  limit = tonumber(limit)
  if limit > 0 and redis.call('XLEN', log) >= limit then
    return nil, redis.error_reply('LOGFULL the log of the partition has ' .. limit .. ' entries or more')
  end
  redis.call('HSET', producers, number .. channel, start .. ' ' .. seq)
  return true
end
