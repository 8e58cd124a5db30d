-- Remove session entries that a dead edge left behind (an offline device has none).
-- KEYS  1 {p}:sessions  2 {p}:owner
-- ARGV  1 fence  2 edge number  3 start  then device indexes
-- Returns how many were removed. Raises FENCED.

if redis.call('HGET', KEYS[2], 'fence') ~= ARGV[1] then
  return redis.error_reply('FENCED another owner has taken this partition')
end
local removed = 0
for i = 4, #ARGV do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if stored then
    local edge, start = string.match(stored, '^%d+ (%d+) (%d+) ')
    if edge == ARGV[2] and tonumber(start) <= tonumber(ARGV[3]) then
      removed = removed + redis.call('HDEL', KEYS[1], ARGV[i])
    end
  end
end
return removed
