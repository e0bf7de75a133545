-- put_fenced: store a computed value, if its lease still stands.
--
-- KEYS  g, v, l, w
-- ARGV  token, envelope, end of its life in ms of Redis' time ('' never), incarnation
--       and clock of g at the fill's start, numbers of its tags
-- returns  'lost' (the lease is not this token's: nothing is touched), 'raised' (what
--       it bears was invalidated since), 'full' (no memory) or 'stored'
--
-- One step, because a lease or a generation that changed between the look and the
-- store would let an old value stand. The store is the script's first write: later
-- ones are not refused for want of memory, and so it alone says `full`.
local g, v, l, w = unpack(KEYS)
if redis.call('GET', l) ~= ARGV[1] then return 'lost' end

local function raised()
    local fields = {'i', 'C'}
    for i = 6, #ARGV do fields[#fields + 1] = 't' .. ARGV[i] end
    local raises = redis.call('HMGET', g, unpack(fields))
    if raises[1] ~= ARGV[4] then return true end
    for i = 2, #fields do
        if raises[i] and tonumber(raises[i]) > tonumber(ARGV[5]) then return true end
    end
    return false
end

local answer = 'stored'
if raised() then
    answer = 'raised'
else
    local set
    if ARGV[3] == '' then
        set = redis.pcall('SET', v, ARGV[2])
    else
        set = redis.pcall('SET', v, ARGV[2], 'PXAT', ARGV[3])
    end
    if set.err then
        if not string.find(set.err, 'OOM', 1, true) then return set end
        answer = 'full'
    end
end
redis.call('DEL', l)
for _, channel in ipairs(redis.call('SMEMBERS', w)) do
    redis.pcall('PUBLISH', channel, l)
end
redis.call('DEL', w)
return answer
