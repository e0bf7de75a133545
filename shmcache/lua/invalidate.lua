-- invalidate: make older values void in the fleet, and append it to the stream.
--
-- KEYS  g, s, then for each name of kind 'd' or 'x': v, l, w
-- ARGV  incarnation for a g that must be made, kind, origin host, length of the
--       stream, life of a set's lease in ms, then for each name: name, nonce and
--       token of a set ('' if it is none)
--       kinds: d delete a key, x expire a key, t and u raise a tag's or namespace's
--       number hard and soft, c and y everything, hard and soft
-- returns  incarnation, clock, Redis' time in ms
--
-- One step, because a value stored between deletion and entry would outlive both. The
-- first write needs no memory, and so the others are not refused for want of it: an
-- invalidation must not be lost half-way.
local HEAD, HEAD_BYTES, FORMAT = '<c4BBBBc8i8i8c8I8c8', 56, 1
local g, s = KEYS[1], KEYS[2]
local kind, origin, length, lease_life = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIELDS = {t = 't', u = 'u', c = 'C', y = 'S'}

redis.call('PERSIST', g)
local incarnation = redis.call('HGET', g, 'i')
if not incarnation then
    incarnation = ARGV[1]
    redis.call('DEL', s)        -- its ids belong to the clock that was lost
    redis.call('HSET', g, 'i', incarnation)
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

local function void(v, l, w, token)
    if kind == 'x' then expire(v) else redis.call('DEL', v) end
    redis.call('DEL', l)        -- a fill under way is refused: it began too early
    if token ~= '' then redis.call('SET', l, token, 'PX', lease_life) end
    for _, channel in ipairs(redis.call('SMEMBERS', w)) do
        redis.pcall('PUBLISH', channel, l)
    end
    redis.call('DEL', w)
end

for i = 0, (#ARGV - 5) / 3 - 1 do
    local name, nonce, token = unpack(ARGV, 6 + 3 * i, 8 + 3 * i)
    local clock = string.format('%.0f', redis.call('HINCRBY', g, 'c', 1))
    if kind == 'd' or kind == 'x' then
        void(KEYS[3 + 3 * i], KEYS[4 + 3 * i], KEYS[5 + 3 * i], token)
    elseif kind == 't' or kind == 'u' then
        redis.call('HSET', g, FIELDS[kind] .. name, clock)
    else
        redis.call('HSET', g, FIELDS[kind], clock)
    end
    redis.call('XADD', s, 'MAXLEN', '~', length, clock .. '-0',
               'k', kind, 'n', name, 'o', origin, 'x', nonce)
end
local time = redis.call('TIME')
return {incarnation, tonumber(redis.call('HGET', g, 'c') or 0),
        time[1] * 1000 + math.floor(time[2] / 1000)}
