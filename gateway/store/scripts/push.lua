-- Append pushes to one partition's log, once; this is their accept where no other partition is
-- concerned. Devices the app does not have here are left out and named in the answer.
-- KEYS  1 {p}:log  2 {p}:producers  3 {p}:apps  4 {p}:content
-- ARGV  1 number  2 channel  3 start  4 seq  5 most entries
--       then for each push: id, app number, Push (encoded, without indexes), indexes (u32 LE each), content
--         content '' = it stands in a push record
-- Returns for each push the indexes (u32 LE each) that are unknown. Raises FENCED, LOGFULL.
--!include lib_admit
--!include lib_bytes

local new, refused = admit(KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[1], ARGV[5])
if refused then
  return refused
end

-- (known, unknown), each as packed indexes
local function sort_devices(app, indexes)
  local expected = struct.pack('>I2', app)
  local known, unknown = {}, {}
  for i = 1, #indexes, 4 do
    local packed = string.sub(indexes, i, i + 3)
    local index = struct.unpack('<I4', packed)
    if redis.call('GETRANGE', KEYS[3], index * 2, index * 2 + 1) == expected then
      known[#known + 1] = packed
    else
      unknown[#unknown + 1] = packed
    end
  end
  return table.concat(known), table.concat(unknown)
end

local answers, record = {}, {}
for at = 6, #ARGV, 5 do
  local known, unknown = sort_devices(tonumber(ARGV[at + 1]), ARGV[at + 3])
  answers[#answers + 1] = unknown
  if new then
    local push = ARGV[at + 2]
    if #known > 0 then
      push = push .. field(8, known)
    end
    local content = ARGV[at + 4]
    if #content > 0 then
      push = push .. field(7, content)
      if #known > 0 or #ARGV[at + 3] == 0 then
        redis.call('HSET', KEYS[4], ARGV[at], content)
      end
    end
    record[#record + 1] = field(4, push)
  end
end
if new then
  redis.call('XADD', KEYS[1], '*', 'r', table.concat(record))
end
return answers
