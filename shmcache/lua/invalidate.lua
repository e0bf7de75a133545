-- invalidate: make older values void in the fleet, and append it to the stream.
--
-- KEYS  g, s, then for each name of kind 'd' or 'x': v, l, w
-- ARGV  incarnation for a g that must be made, identity of its Redis ('' unknown),
--       the identity that g is to bear no more ('-' to leave that alone), origin host,
--       length of the stream, life of a set's lease in ms, then for each name one
--       string: kind 1, nonce 8, the token that takes the lease 16, instead_of 16
--       (NULs for none), and the name
--       kinds: d delete a key, x expire a key, t and u raise a tag's or namespace's
--       number hard and soft, c and y everything, hard and soft, g everything, hard,
--       which followers take for a gap. With instead_of the name is touched only if
--       its lease stands under that token.
-- returns  incarnation, clock, Redis' time in ms, then the number, from 0, of each name
--       whose lease did not stand under its instead_of
--
-- One step, because a value stored between deletion and entry would outlive both. The
-- first write needs no memory, and so the others are not refused for want of it: an
-- invalidation must not be lost half-way. Whatever else may fail is called by pcall.
local HEAD, HEAD_BYTES, FORMAT = '<c4BBBBc8i8i8i8c8I8c8', 64, 2
local NONE = string.rep('\0', 16)
local RAISES = {t = 't', u = 'u', c = 'C', y = 'S', g = 'C'}
local g, s = KEYS[1], KEYS[2]
local fresh, identity, was, origin, length, life = unpack(ARGV, 1, 6)

local probe = redis.pcall('PERSIST', g)
if type(probe) == 'table' then return probe end         -- by a replica, as an error

local incarnation, bears, c = unpack(redis.call('HMGET', g, 'i', 'r', 'c'))
if incarnation and #incarnation ~= 8
        or c and not (#c <= 16 and string.find(c, '^%d+$')) then
    redis.call('DEL', g)        -- not one of ours: as if there was none
    incarnation, bears = nil, nil
end
bears = bears or ''
-- another Redis than g's, and nobody wrote that down yet: every value is dead
local moved = was ~= '-' and bears == was and bears ~= identity
if not incarnation or moved then
    incarnation = fresh
    redis.call('DEL', s)        -- its entries belong to what was lost
    redis.call('HSET', g, 'i', incarnation, 'r', identity)
end

-- PTTL := min(PTTL, grace), by which every reader finds it stale
local function expire(v)
    local head = redis.pcall('GETRANGE', v, 0, HEAD_BYTES - 1)
    if head == '' then return end
    local grace = 0
    if type(head) == 'string' and #head == HEAD_BYTES
            and string.sub(head, 1, 4) == 'SHMC' and string.byte(head, 5) == FORMAT then
        grace = math.max(0, (select(8, struct.unpack(HEAD, head))))
    end
    local left = redis.call('PTTL', v)
    if left == -1 or left > grace then
        redis.call('PEXPIRE', v, string.format('%.0f', grace))
    end
end

local function void(kind, v, l, w, token)
    if kind == 'x' then expire(v) else redis.call('DEL', v) end
    redis.call('DEL', l)        -- a fill under way is refused: it began too early
    if token ~= NONE then redis.pcall('SET', l, token, 'PX', life) end
    local channels = redis.pcall('SMEMBERS', w)
    for _, channel in ipairs(channels) do redis.pcall('PUBLISH', channel, l) end
    redis.call('DEL', w)
end

local function append(clock, kind, name, nonce)
    local entry = {'XADD', s, 'MAXLEN', '~', length, clock .. '-0',
                   'k', kind, 'n', name, 'o', origin, 'x', nonce}
    local added = redis.pcall(unpack(entry))
    if type(added) == 'table' and added.err then    -- foreign, or of a later clock
        redis.call('DEL', s)    -- followers find a gap
        redis.call(unpack(entry))
    end
end

local lost, at = {}, 3
for i = 7, #ARGV do
    local kind, nonce = string.sub(ARGV[i], 1, 1), string.sub(ARGV[i], 2, 9)
    local token, instead_of = string.sub(ARGV[i], 10, 25), string.sub(ARGV[i], 26, 41)
    local name, v, l, w = string.sub(ARGV[i], 42), nil, nil, nil
    if kind == 'd' or kind == 'x' then
        v, l, w = unpack(KEYS, at, at + 2)
        at = at + 3
    end
    if l and instead_of ~= NONE and redis.pcall('GET', l) ~= instead_of then
        lost[#lost + 1] = i - 7
    else
        local clock = string.format('%.0f', redis.call('HINCRBY', g, 'c', 1))
        if l then
            void(kind, v, l, w, token)
        else
            local one = (kind == 't' or kind == 'u') and name or ''
            redis.call('HSET', g, RAISES[kind] .. one, clock)
        end
        append(clock, kind, name, nonce)
    end
end
local time = redis.call('TIME')
return {incarnation, tonumber(redis.call('HGET', g, 'c') or 0),
        time[1] * 1000 + math.floor(time[2] / 1000), unpack(lost)}
