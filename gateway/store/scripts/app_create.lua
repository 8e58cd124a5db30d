-- Create an app, unless it is there.
-- KEYS  1 {apps}  2 {apps}:number
-- ARGV  1 app id  2 JSON {access_key, api_keys}
-- Returns the app's number; 0 if the app exists.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  return 0
end
local app = cjson.decode(ARGV[2])
app.number = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(app))
return app.number
