-- acquire: what values are worth, and the leases of those who would compute.
--
-- KEYS  g, s, then v, l, w, e of each key
-- ARGV  incarnation for a g that must be made, identity of its Redis ('' unknown),
--       life of a lease in ms, then for each key one string: '1' to have the lease of
--       a fresh value too, else '0'; offer, instead_of and waited (the token it waited
--       for), 16 bytes each, NULs for none; the channel to wake it by (none asks for
--       no wake-up)
-- returns  one string: incarnation (8 bytes, NULs for none), clock 17, Redis' time in
--       ms 17; then for each key: state 1 (0 none, 1 stale, 2 fresh), what is left of
--       its life in ms 17 (-1 all), random bytes of its fill 8, lease 1 (0 none, 1 won,
--       2 wait, 3 failed, 4 no memory), its PTTL 17, n 5, and n bytes, which are the
--       token that stands, or the error.
--       Numbers are decimal, padded; to read many small replies costs a client dear.
--
-- One step, because a value stored between the two looks would be computed again,
-- and because a raise after the grant must be above the clock that is answered.
-- Whatever stands in a key, the others' part of the answer must not suffer: so no
-- number is taken that would not fit there.
local HEAD, HEAD_BYTES, FORMAT = '<i8i8i8c8I8c8', 64, 2    -- from its 17th byte on
local FIRST = 512       -- bytes to look at: all heads are shorter, many values too
local LIFE_MAX = 9223372036854          -- ms
local BYTES_MAX = 16 * 1048576 + 4096   -- of a value and its head; none of us is larger
local LEASE_MAX = 5000                  -- ms; another host's may be longer than ours
local EIGHT = '\0\0\0\0\0\0\0\0'
local NONE = EIGHT .. EIGHT
local call, pcall, format, sub = redis.call, redis.pcall, string.format, string.sub
local g, s, life = KEYS[1], KEYS[2], tonumber(ARGV[3])

-- What the command answers; false, and the key is deleted, if it is of another type.
-- Any other error is raised: a right that we have not says nothing of the key.
local function read(command, key, ...)
    local reply = pcall(command, key, ...)
    if type(reply) ~= 'table' then return reply end
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
    call('DEL', key)
    return false
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = call('HMGET', g, 'i', 'c', 'C', 'S')
local i, c = meta[1], meta[2]
if not i or #i ~= 8 or (c and not (#c <= 16 and string.find(c, '^%d+$'))) then
    meta = {}           -- not one of ours: as if there was none
end

local function above(raise, clock)      -- one that cannot be read: so that none lives
    return raise and not ((tonumber(raise) or math.huge) <= clock)
end

local function raised(head, ntags, clock)
    local hard, soft = above(meta[3], clock), above(meta[4], clock)
    if ntags == 0 then return hard, soft end
    local fields = {}
    for i = 1, ntags do
        local at = HEAD_BYTES + 4 * i - 3
        local n = format('%.0f', (struct.unpack('<I4', head, at)))
        fields[2 * i - 1], fields[2 * i] = 't' .. n, 'u' .. n
    end
    local raises = call('HMGET', g, unpack(fields))
    for i = 1, 2 * ntags, 2 do
        hard = hard or above(raises[i], clock)
        soft = soft or above(raises[i + 1], clock)
    end
    return hard, soft
end

-- whether it is within its ttl, and what is left of its life
local function lives(v, ttl, grace, ends)
    local left = call('PTTL', v)
    if ttl < 0 then return left == -1, math.min(left, grace) end
    local until_end = ends - now
    if left < 0 or left > ttl + grace then      -- somebody lengthened it
        return false, math.min(until_end, grace)
    end
    left = math.min(left, until_end)
    return left > grace, left
end

local function state(v)
    local head = read('GETRANGE', v, 0, FIRST - 1)
    if not head or head == '' then return 0, 0, EIGHT end
    if #head < 5 or sub(head, 1, 4) ~= 'SHMC'
            or #head == FIRST and call('GETRANGE', v, BYTES_MAX, BYTES_MAX) ~= '' then
        call('DEL', v)        -- foreign
        return 0, 0, EIGHT
    end
    if string.byte(head, 5) ~= FORMAT then      -- another version's: left alone
        return 0, 0, EIGHT
    end
    local ntags = string.byte(head, 7) or 0
    if ntags > 33 or #head < HEAD_BYTES + 4 * ntags then
        call('DEL', v)
        return 0, 0, EIGHT
    end
    local ttl, grace, ends, incarnation, clock, nonce = struct.unpack(HEAD, head, 17)
    if ttl < -1 or ttl > LIFE_MAX or grace < 0 or grace > LIFE_MAX then
        call('DEL', v)
        return 0, 0, EIGHT
    end
    if incarnation ~= meta[1] then return 0, 0, nonce end
    local hard, soft = raised(head, ntags, clock)
    -- expired, and no grace to be served stale in
    if hard or (soft and grace == 0 and ttl >= 0) then return 0, 0, nonce end
    local fresh, left = lives(v, ttl, grace, ends)
    if left <= 0 and left ~= -1 then return 0, 0, nonce end
    return (fresh and not soft) and 2 or 1, left, nonce
end

local function make_g()
    call('DEL', g, s)     -- the stream's ids belong to the clock that was lost
    call('HSET', g, 'i', ARGV[1], 'r', ARGV[2])
    meta[1] = ARGV[1]
end

local memory        -- whether there is any, once that was asked

-- A script's first write is refused where there is none: here one that changes nothing.
local function has_memory(l)
    if memory == nil then
        local probe = pcall('SETRANGE', l, 0, '')
        memory = type(probe) ~= 'table' or not string.find(probe.err, 'OOM', 1, true)
    end
    return memory
end

-- lease, its PTTL, token or error
local function lease(l, w, e, offer, instead_of, waited, channel)
    has_memory(l)
    if waited ~= NONE then
        local failed = read('GET', e)
        if failed and sub(failed, 1, 16) == waited then
            return 3, 0, sub(failed, 17)
        end
    end
    local stands = read('GET', l)
    if stands and #stands ~= 16 then        -- foreign
        call('DEL', l)
        stands = false
    end
    if not stands or stands == instead_of then
        if not memory then return 4, 0, '' end
        if not meta[1] then make_g() end
        call('SET', l, offer, 'PX', life)
        return 1, life, offer
    end
    local left = call('PTTL', l)
    -- nobody of us makes one that has no end, or such a long one: Redis' clock was set
    -- back since, and the lease of a dead holder would stand until it is there again
    if left < 0 or left > math.max(life, LEASE_MAX) then
        call('PEXPIRE', l, life)
        left = life
    end
    if channel ~= '' and memory then    -- a hint: who is not told asks again anyway
        pcall('SADD', w, channel)
        pcall('PEXPIRE', w, left + 1000)
    end
    return 2, left, stands
end

local answers = {}
for i = 1, #ARGV - 3 do
    local v, l, w, e = unpack(KEYS, 4 * i - 1, 4 * i + 2)
    local ask = ARGV[3 + i]
    local worth, left, nonce = state(v)
    local got, wait, words = 0, 0, ''
    if worth ~= 2 or sub(ask, 1, 1) == '1' then
        got, wait, words = lease(l, w, e, sub(ask, 2, 17),
            sub(ask, 18, 33), sub(ask, 34, 49), sub(ask, 50))
    end
    words = sub(words, 1, 9999)
    answers[i + 1] = format('%d%17d', worth, left) .. nonce
        .. format('%d%17d%5d', got, wait, #words) .. words
end
-- A replica refuses a write, also one that changes nothing: so a master that was
-- demoted is never believed.
local probe = pcall('PERSIST', g)
if type(probe) == 'table' and probe.err then return probe end
answers[1] = (meta[1] or EIGHT) .. format('%17d%17d', meta[2] or 0, now)
return table.concat(answers)
