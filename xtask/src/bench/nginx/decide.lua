-- For wrk: asks the agent about random objects as nginx does for a current Chrome, and prints what came of it.
-- Arguments: number of objects, milliseconds to wait before each request.
local objects, wait
local head = " HTTP/1.1\r\n" -- The target is that of the question; what is asked about stands in a header.
local rest = "\r\n" .. table.concat({
  "Host: p2pcdn",
  "X-Original-Method: GET",
  "X-Original-Host: www.example.org",
  "X-Forwarded-For: 192.0.2.7",
  'sec-ch-ua-platform: "Linux"',
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
  'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
  "sec-ch-ua-mobile: ?0",
  "Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
  "Sec-Fetch-Site: same-origin",
  "Sec-Fetch-Mode: no-cors",
  "Sec-Fetch-Dest: image",
  "Referer: https://www.example.org/gallery/2026/",
  "Accept-Encoding: gzip, deflate, br, zstd",
  "Accept-Language: en-US,en;q=0.9",
  "Priority: u=2, i",
}, "\r\n") .. "\r\n\r\n"

function init(arguments)
  objects, wait = tonumber(arguments[1]), tonumber(arguments[2])
  math.randomseed(os.time())
  if wait > 0 then
    function delay()
      return wait
    end
  end
end

function request()
  return string.format("GET /v1/decide%sX-Original-URI: /objects/%07d.png%s", head, math.random(0, objects - 1), rest)
end

function done(summary, latency)
  -- 401 is how the agent says that a request leaves.
  local errors = summary.errors
  io.write(string.format('\n{"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
