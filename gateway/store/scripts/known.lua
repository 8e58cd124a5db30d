-- Which of these devices does the app not have in this partition?
-- KEYS  1 {p}:apps
-- ARGV  1 app number  2 indexes (u32 LE each)
-- Returns the unknown ones (u32 LE each).

local expected = struct.pack('>I2', tonumber(ARGV[1]))
local unknown = {}
for i = 1, #ARGV[2], 4 do
  local packed = string.sub(ARGV[2], i, i + 3)
  local index = struct.unpack('<I4', packed)
  if redis.call('GETRANGE', KEYS[1], index * 2, index * 2 + 1) ~= expected then
    unknown[#unknown + 1] = packed
  end
end
return table.concat(unknown)
