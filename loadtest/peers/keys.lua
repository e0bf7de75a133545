-- What wrk asks for: wrk ... -s keys.lua URL -- MODE PREFIX KEYS FIRST
--   zipf   KEYS paths, drawn by Zipf's law; with one key, the same work for one path
--   each   every path once, from PREFIX .. FIRST on; those before PREFIX .. KEYS, or
--          without end where KEYS is 0
-- The last line that wrk prints is a JSON object of what it found.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds, nanoseconds; } instant;
  int clock_gettime(int clock, instant *now);
]]

local DRAWS = 262144      -- a run repeats them; the same in every run
local EXPONENT = 0.99     -- YCSB's
local STEP = 7919         -- prime: the often asked keys do not stand side by side

local threads = {}

local function seconds()
  local now = ffi.new("instant")
  ffi.C.clock_gettime(1, now)  -- CLOCK_MONOTONIC
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

function setup(thread)
  threads[#threads + 1] = thread
end

local function request_for(path)
  return "GET " .. path .. " HTTP/1.1\r\nHost: " .. wrk.host .. "\r\n\r\n"
end

local function cumulative(keys)
  local sums, sum = {}, 0
  for rank = 1, keys do
    sum = sum + rank ^ -EXPONENT
    sums[rank] = sum
  end
  return sums
end

local function rank_at(sums, point)
  local low, high = 1, #sums
  while low < high do
    local middle = math.floor((low + high) / 2)
    if sums[middle] < point then low = middle + 1 else high = middle end
  end
  return low
end

local function zipf(prefix, keys)
  local sums, ready, draws = cumulative(keys), {}, {}
  for key = 1, keys do
    ready[key] = request_for(prefix .. (key - 1))
  end
  math.randomseed(1)
  for i = 1, DRAWS do
    local rank = rank_at(sums, math.random() * sums[keys])
    draws[i] = rank * STEP % keys + 1
  end
  local i = 0
  return function()
    i = i % DRAWS + 1
    return ready[draws[i]]
  end
end

local function each(prefix, keys, first)
  local next_key = first - 2  -- wrk throws the first one away: it looks for pipelining
  return function()
    next_key = next_key + 1
    if next_key == keys and keys > 0 then
      took = seconds() - began  -- wrk itself sleeps on
      wrk.thread:stop()
    end
    return request_for(prefix .. next_key)
  end
end

function init(args)
  local mode, prefix, keys, first = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  if mode == "zipf" then
    request = zipf(prefix, keys)
  else
    request = each(prefix, keys, first)
  end
  began, busy_before = seconds(), os.clock()
end

function done(summary, latency)
  local thread = threads[1]
  local busy = os.clock() - thread:get("busy_before")
  local took = thread:get("took") or summary.duration / 1e6
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "busy": %.6f, "bytes": %d, "p50": %.3f,' ..
    ' "p99": %.3f, "p999": %.3f, "connect": %d, "read": %d, "write": %d,' ..
    ' "status": %d, "timeout": %d}\n',
    summary.requests, took, busy, summary.bytes,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3,
    e.connect, e.read, e.write, e.status, e.timeout))
end
