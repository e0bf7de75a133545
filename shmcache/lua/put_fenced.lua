-- put_fenced: store a computed value, if its lease still stands.
--
-- KEYS  g, v, l, w
-- ARGV  token, envelope, its life in ms ('' endless) and the end of it in ms of Redis'
--       time, incarnation and clock of g at the fill's start, numbers of its tags
-- returns  an answer, and what is left of the life in ms (-1 all): 'lost' (the lease is
--       not this token's: nothing is touched), 'raised' (what it bears was invalidated
--       since, or its life is over), 'full' (no memory) or 'stored'
--
-- One step, because a lease or a generation that changed between the look and the
-- store would let an old value stand. The store is the script's first write: later
-- ones are not refused for want of memory, and so it alone says `full`.
local g, v, l, w = unpack(KEYS)
if redis.pcall('GET', l) ~= ARGV[1] then return {'lost', 0} end

local function raised()
    local fields = {'i', 'C'}
    for i = 7, #ARGV do fields[#fields + 1] = 't' .. ARGV[i] end
    local raises = redis.call('HMGET', g, unpack(fields))
    if raises[1] ~= ARGV[5] then return true end
    for i = 2, #fields do
        local raise = raises[i] and (tonumber(raises[i]) or math.huge)
        if raise and raise > tonumber(ARGV[6]) then return true end
    end
    return false
end

local function store()
    if ARGV[3] == '' then return redis.pcall('SET', v, ARGV[2]), -1 end
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    -- no more than its life, wherever Redis' clock has been set meanwhile
    local left = math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - now)
    if left <= 0 then return nil, 0 end
    return redis.pcall('SET', v, ARGV[2], 'PX', string.format('%.0f', left)), left
end

local answer, left = 'raised', 0
if not raised() then
    local set
    set, left = store()
    if set and set.err then
        if not string.find(set.err, 'OOM', 1, true) then return set end
        answer, left = 'full', 0
    elseif set then
        answer = 'stored'
    end
end
redis.call('DEL', l)
local channels = redis.pcall('SMEMBERS', w)
for _, channel in ipairs(channels) do redis.pcall('PUBLISH', channel, l) end
redis.call('DEL', w)
return {answer, left}
