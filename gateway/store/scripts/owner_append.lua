-- Append a record of the partition's owner, once, under its fence.
-- KEYS  1 {p}:log  2 {p}:producers  3 {p}:owner
-- ARGV  1 number  2 channel  3 start  4 seq  5 record  6 fence  7 most entries
-- Returns the entry's id; '' if this call was executed before. Raises FENCED, LOGFULL.
--!include lib_admit

if redis.call('HGET', KEYS[3], 'fence') ~= ARGV[6] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
local new, refused = admit(KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[1], ARGV[7])
if refused then
  return refused
end
if not new then
  return ''
end
return redis.call('XADD', KEYS[1], '*', 'r', ARGV[5])
