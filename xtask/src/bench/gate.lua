-- What the filter does, as one would write it for Envoy's Lua filter: the same gate, a lookup by path in a table of as many objects, the
-- same draw, the same answer. It lacks what the filter does beyond that: counts, first-hand freshness, leases, policies, queries.
local objects = {}
local holders = { "replica.a.example", "replica.b.example" }
local fraction = 1.0
local digit = "0123456789abcdef"

for number = 0, «objects» - 1 do
  local hex = {}
  local state = number + 1
  for at = 1, 64 do
    state = (state * 1103515245 + 12345) % 2147483648
    local nibble = math.floor(state / 65536) % 16 + 1
    hex[at] = digit:sub(nibble, nibble)
  end
  objects[string.format("/objects/%07d.png", number)] =
    { sha256 = table.concat(hex), size = 20480, dest = "image", fresh_until = math.huge, holders = holders }
end

local function is_canonical(path)
  return path:byte(1) == 47 and #path <= 1024
    and not path:find("[^%w/%-._~!$&'()*+,;=:@]")
    and not path:find("//", 1, true)
    and not path:find("/%.%.?/") and not path:find("/%.%.?$")
    and path:sub(1, 20) ~= "/.well-known/p2pcdn/"
end

local function asks_origin(headers)
  local cache_control = headers:get("cache-control")
  if cache_control and (cache_control:find("no%-cache") or cache_control:find("no%-store") or cache_control:find("max%-age=0")) then
    return true
  end
  return headers:get("pragma") == "no-cache"
end

local function is_bound_to_origin(headers)
  local length = headers:get("content-length")
  return (length and length ~= "0") or headers:get("transfer-encoding")
    or headers:get("authorization") or headers:get("proxy-authorization")
    or headers:get("upgrade") or headers:get("expect")
    or headers:get("if-none-match") or headers:get("if-modified-since") or headers:get("if-match")
    or headers:get("if-unmodified-since") or headers:get("if-range")
    or asks_origin(headers)
end

local function takes(headers, object)
  local dest, site, mode = headers:get("sec-fetch-dest"), headers:get("sec-fetch-site"), headers:get("sec-fetch-mode")
  if dest or site or mode then
    if dest ~= object.dest or site ~= "same-origin" then return false end
    return mode == "no-cors" or (mode == "cors" and not headers:get("cookie"))
  end
  local agent = headers:get("user-agent") or ""
  return not agent:find("Mozilla/", 1, true) and agent:sub(1, 4) ~= "git/"
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local method = headers:get(":method")
  if method ~= "GET" and method ~= "HEAD" then return end
  local path = headers:get(":path")
  if not is_canonical(path) or is_bound_to_origin(headers) then return end
  local range = headers:get("range")
  if range and not range:find("^bytes=0%-%d*$") then return end
  local object = objects[path]
  if not object or object.size < 8192 or object.fresh_until <= os.time() or not takes(headers, object) then return end
  if math.random() >= fraction then return end
  local holder = object.holders[math.random(#object.holders)]
  local origin = headers:get(":authority")
  handle:respond({
    [":status"] = "307",
    ["location"] = "https://" .. holder .. "/.well-known/p2pcdn/v1/r/" .. origin .. "/" .. object.sha256 .. path,
    ["cache-control"] = "no-store",
    ["referrer-policy"] = "no-referrer",
  }, "")
end
