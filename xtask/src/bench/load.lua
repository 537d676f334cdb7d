-- For wrk: asks for random objects as a current Chrome asks for the images of a page, and prints what came of it.
-- Arguments: what stands before and after the number of an object, number of objects, milliseconds to wait before each request. The head
-- is written out once, since wrk would put it together anew for each request.
local before, after, objects
local browser = table.concat({
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
  before, after, objects = arguments[1], arguments[2] .. browser, tonumber(arguments[3])
  local wait = tonumber(arguments[4])
  math.randomseed(os.time())
  if wait > 0 then
    function delay()
      return wait
    end
  end
end

function request()
  return string.format("%s%07d%s", before, math.random(0, objects - 1), after)
end

function done(summary, latency)
  -- Not summary.errors.status: 401 is how the agent says that a request leaves.
  local errors = summary.errors
  io.write(string.format('\n{"requests":%d,"duration_us":%d,"failed":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
