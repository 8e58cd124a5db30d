-- Register and unregister sessions of one edge in one partition, and tell the log, in one step.
-- KEYS  1 {p}:log  2 {p}:producers  3 {p}:sessions  4 {p}:counters  5 {p}:installs  6 {p}:apps
--       7 {p}:nonces
-- ARGV  1 edge number  2 channel  3 start  4 seq  5 ms a nonce is remembered  6 number of ups
--       7 most entries
--       then for each up:   row, connection, app number, kind, device, nonce, prior
--         kind 't': a token; device = index (decimal). kind 'r': a registration; device = installation id
--         prior = epoch of the session that this one continues (an edge under a new number), or 0
--       then for each down: index, epoch
-- Returns 13 bytes for each up: status (1), index (u32 LE), value (u64 LE).
--   status 0 registered, value = epoch; 1 a connection at least as new is registered, value = its
--   counter; 2 nonce seen before; 3 fenced since (only after a repetition); 4 no such device.
-- Raises FENCED, LOGFULL. A repeated call (same seq) changes nothing and answers from what is stored.
--!include lib_admit
--!include lib_bytes

local new, refused = admit(KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[1], ARGV[7])
if refused then
  return refused
end

local edge, start = ARGV[1], ARGV[3]
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local epoch = tonumber(redis.call('HGET', KEYS[4], 'epoch') or '0')
local devices = tonumber(redis.call('HGET', KEYS[4], 'devices') or '0')
local first_epoch, first_device = epoch, devices
local out, up, app_column, epochs = {}, {}, {}, {}
local nonces_purged = false

local function answer(status, index, value)
  out[#out + 1] = struct.pack('<BI4I8', status, index, value)
end

local function app_bytes(app)
  return struct.pack('>I2', app)
end

-- The device's index, drawing one for an installation that is new; or nil and a status.
local function find_device(kind, device, app, nonce)
  if kind == 't' then
    local index = tonumber(device)
    if redis.call('GETRANGE', KEYS[6], index * 2, index * 2 + 1) ~= app_bytes(app) then
      return nil, 4
    end
    return index
  end
  if new then
    if not nonces_purged then
      redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now_ms)
      nonces_purged = true
    end
    if redis.call('ZADD', KEYS[7], 'NX', now_ms + ARGV[5], nonce) == 0 then
      return nil, 2
    end
  end
  local field_name = app_bytes(app) .. device
  local known = redis.call('HGET', KEYS[5], field_name)
  if known then
    return tonumber(known)
  end
  if not new then
    return nil, 2
  end
  local index = devices
  devices = devices + 1
  redis.call('HSET', KEYS[5], field_name, index)
  redis.call('SETRANGE', KEYS[6], index * 2, app_bytes(app))
  return index
end

local function register(row, connection, app, kind, device, nonce, prior)
  local index, status = find_device(kind, device, app, nonce)
  if not index then
    return answer(status, 0, 0)
  end
  local stored = redis.call('HGET', KEYS[3], index)
  if stored then
    local s_epoch, s_edge, s_start, s_row, s_connection =
      string.match(stored, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
    if s_edge == edge and s_start == start and s_row == row then
      return answer(0, index, tonumber(s_epoch))
    end
    if tonumber(s_connection) >= tonumber(connection) and s_epoch ~= prior then
      return answer(1, index, tonumber(s_connection))
    end
  end
  if not new then
    return answer(3, index, 0)
  end
  epoch = epoch + 1
  redis.call('HSET', KEYS[3], index,
    string.format('%.0f %s %s %s %s', epoch, edge, start, row, connection))
  up[#up + 1] = struct.pack('<I4', index)
  app_column[#app_column + 1] = struct.pack('<I4', app)
  epochs[#epochs + 1] = struct.pack('<I8', epoch)
  return answer(0, index, epoch)
end

local at = 8
for _ = 1, tonumber(ARGV[6]) do
  register(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4],
    ARGV[at + 5], ARGV[at + 6])
  at = at + 7
end

local down = {}
if new then
  while at < #ARGV do
    local stored = redis.call('HGET', KEYS[3], ARGV[at])
    -- Named by its epoch, so an old edge can never remove a newer session.
    if stored and string.match(stored, '^%d+') == ARGV[at + 1] then
      redis.call('HDEL', KEYS[3], ARGV[at])
      down[#down + 1] = struct.pack('<I4', tonumber(ARGV[at]))
    end
    at = at + 2
  end
end

if epoch > first_epoch then
  redis.call('HSET', KEYS[4], 'epoch', string.format('%.0f', epoch))
end
if devices > first_device then
  redis.call('HSET', KEYS[4], 'devices', devices)
end
if #up > 0 or #down > 0 then
  local sessions = { string.char(8) .. varint(tonumber(edge)) }
  if #up > 0 then
    sessions[#sessions + 1] = field(2, table.concat(up))
    sessions[#sessions + 1] = field(3, table.concat(app_column))
    sessions[#sessions + 1] = field(4, table.concat(epochs))
  end
  if #down > 0 then
    sessions[#sessions + 1] = field(5, table.concat(down))
  end
  redis.call('XADD', KEYS[1], '*', 'r', field(1, table.concat(sessions)))
end
return table.concat(out)
