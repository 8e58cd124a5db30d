-- Append a record to a partition's log, once.
-- KEYS  1 {p}:log  2 {p}:producers
-- ARGV  1 number  2 channel  3 start  4 seq  5 record  6 most entries
-- Returns the entry's id; '' if this call was executed before. Raises FENCED, LOGFULL.
--!include lib_admit

local new, refused = admit(KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[1], ARGV[6])
if refused then
  return refused
end
if not new then
  return ''
end
return redis.call('XADD', KEYS[1], '*', 'r', ARGV[5])
