-- Append a record to a partition's log, once.
-- KEYS  1 {p}:log  2 {p}:producers
-- ARGV  1 number  2 channel  3 start  4 seq  5 record
-- Returns the entry's id; '' if this call was executed before. Raises FENCED.
--!include lib_admit

local new = admit(KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if new == nil then
  return redis.error_reply('FENCED a newer start or an edge_down stands against this producer')
end
if not new then
  return ''
end
return redis.call('XADD', KEYS[1], '*', 'r', ARGV[5])
