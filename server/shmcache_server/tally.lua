-- The calls that the fleet was granted of a budget within a window, and whether there
-- are more. One step: two hosts that ask for the last call must not both get it.
--
-- KEYS[1]  the tally: cmsgpack {born, at, blocked, calls}; it ends by itself
-- ARGV     1 calls of the budget  2 window  3 calls wanted, or 0 to look
--          4 for how long to block, or 0
--          then age and number of calls that were granted without us
-- Returns  {granted 0 or 1, wait until they would be, used, wait for one call or 0,
--          how long blocked, age of the tally}
-- All times are microseconds of this server's clock. `calls` is flat: time, number, time,
-- number, the oldest first; those of one 1024th of a window are one.
local SEEN_EVERY = 3000000  -- hosts look each second

local calls, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local cost, block = tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local raw = redis.call('GET', KEYS[1])
local tally = {now, now, 0, {}}
if raw then tally = cmsgpack.unpack(raw) end
local born, at, blocked, kept = tally[1], tally[2], tally[3], tally[4]

-- A clock set back, or forward, must free nothing: what passed since the last look is
-- at least 0 and at most a few seconds, and all that is noted moves along.
local passed = math.min(math.max(now - at, 0), SEEN_EVERY)
local moved = now - at - passed
born, blocked = born + moved, blocked + moved

local all = {}
for i = 1, #kept, 2 do
  local when = kept[i] + moved
  if when > now - window then all[#all + 1] = {when, kept[i + 1]} end
end
for i = 5, #ARGV, 2 do
  local when = now - tonumber(ARGV[i])
  if when > now - window then all[#all + 1] = {when, tonumber(ARGV[i + 1])} end
end
table.sort(all, function(a, b) return a[1] < b[1] end)

local used = 0
for _, call in ipairs(all) do used = used + call[2] end
if block > 0 then blocked = math.max(blocked, now + block) end

-- How long until `n` more were no more than the budget.
local function wait(n)
  local over, until_ = used + n - calls, 0
  for _, call in ipairs(all) do
    if over <= 0 then break end
    over = over - call[2]
    until_ = call[1] + window - now
  end
  return math.max(until_, blocked - now, 0)
end

local waits, granted = wait(cost), 0
if cost > 0 and waits == 0 then
  granted, used = 1, used + cost
  local piece = math.max(1, math.floor(window / 1024))
  local last = all[#all]
  if last and math.floor(last[1] / piece) == math.floor(now / piece) then
    last[1], last[2] = now, last[2] + cost
  else
    all[#all + 1] = {now, cost}
  end
end

local flat = {}
for _, call in ipairs(all) do
  flat[#flat + 1] = call[1]
  flat[#flat + 1] = call[2]
end
local life = math.max(window, blocked - now) * 2 + 60000000
redis.call('SET', KEYS[1], cmsgpack.pack({born, now, blocked, flat}),
           'PX', math.ceil(life / 1000))
return {granted, waits, used, wait(1), math.max(blocked - now, 0), now - born}
