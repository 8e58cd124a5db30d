-- Protobuf by hand: records are built by concatenation (see protocol/schema/log.proto).

local function varint(n)
  local out = {}
  while n >= 128 do
    out[#out + 1] = string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  out[#out + 1] = string.char(n)
  return table.concat(out)
end

-- A length-delimited field: bytes, string, message, packed column.
local function field(number, bytes)
  return string.char(number * 8 + 2) .. varint(#bytes) .. bytes
end
