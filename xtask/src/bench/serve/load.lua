-- For wrk: asks a host for some paths in turn, and prints what came of it. Arguments: host, paths.
local requests, number = {}, 0

function init(arguments)
  for at = 2, #arguments do
    requests[at - 1] = "GET " .. arguments[at] .. " HTTP/1.1\r\nHost: " .. arguments[1] .. "\r\nUser-Agent: wrk\r\n\r\n"
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\n{"requests":%d,"bytes":%d,"duration_us":%d,"failed":%d,"p99_us":%d}\n',
    summary.requests, summary.bytes, summary.duration, failed, latency:percentile(99)))
end
