-- acquire: what values are worth, and the leases of those who would compute.
--
-- KEYS  g, s, then for each key asked: v, l, w, e
-- ARGV  incarnation for a g that must be made, life of a lease in ms, then for each
--       key: offer ('' asks for the value alone), instead_of, early ('1' or ''),
--       channel ('' asks for no wake-up), waited (token it waited for, or '')
-- returns  incarnation, clock, Redis' time in ms, then for each key: state (0 none,
--       1 stale, 2 fresh), random bytes of its fill, PTTL, lease (0 none, 1 won,
--       2 wait, 3 failed), PTTL of the lease, token that stands or error
--
-- One step, because a value stored between the two looks would be computed again,
-- and because a raise after the grant must be above the clock that is answered.
local HEAD, HEAD_BYTES, FORMAT = '<c4BBBBc8i8i8c8I8c8', 56, 1
local g, s, life = KEYS[1], KEYS[2], tonumber(ARGV[2])
local meta = redis.call('HMGET', g, 'i', 'c', 'C', 'S')

local function above(raise, clock)
    return raise and tonumber(raise) > clock
end

local function raised(head, ntags, clock)
    local hard, soft = above(meta[3], clock), above(meta[4], clock)
    for i = 1, ntags do
        local n = string.format('%.0f', (struct.unpack('<I4', head,
                                                       HEAD_BYTES + 4 * i - 3)))
        local at = redis.call('HMGET', g, 't' .. n, 'u' .. n)
        hard = hard or above(at[1], clock)
        soft = soft or above(at[2], clock)
    end
    return hard, soft
end

local function state(v)
    local head = redis.pcall('GETRANGE', v, 0, HEAD_BYTES + 4 * 33 - 1)
    if head == '' then return 0, '', 0 end
    if type(head) == 'table' or #head < HEAD_BYTES
            or string.sub(head, 1, 4) ~= 'SHMC' then
        redis.call('DEL', v)    -- foreign
        return 0, '', 0
    end
    local _, format, _, ntags, _, _, ttl, grace, incarnation, clock, nonce =
        struct.unpack(HEAD, head)
    if format ~= FORMAT then return 0, '', 0 end    -- a newer version's: left alone
    if ntags > 33 or #head < HEAD_BYTES + 4 * ntags then
        redis.call('DEL', v)
        return 0, '', 0
    end
    if incarnation ~= meta[1] then return 0, '', 0 end
    local hard, soft = raised(head, ntags, clock)
    if hard then return 0, '', 0 end
    local left = redis.call('PTTL', v)
    local fresh
    if ttl < 0 then
        fresh = left == -1
    else        -- more than its whole life left: somebody lengthened it
        fresh = left > grace and left <= ttl + grace
    end
    return (fresh and not soft) and 2 or 1, nonce, left
end

local function make_g()
    redis.call('DEL', s)        -- its ids belong to the clock that was lost
    redis.call('HSET', g, 'i', ARGV[1])
    meta[1] = ARGV[1]
end

-- answers lease, its PTTL, token or error; or an error reply of Redis
local function lease(l, w, e, offer, instead_of, channel, waited)
    if waited ~= '' then
        local failed = redis.call('GET', e)
        if failed and string.sub(failed, 1, #waited) == waited then
            return 3, 0, string.sub(failed, #waited + 1)
        end
    end
    local stands = redis.call('GET', l)
    if not stands or stands == instead_of then
        if not meta[1] then make_g() end
        local set = redis.pcall('SET', l, offer, 'PX', life)
        if set.err then
            if string.find(set.err, 'OOM', 1, true) then return 0, 0, '' end
            return set
        end
        return 1, life, offer
    end
    local left = redis.call('PTTL', l)
    if channel ~= '' then       -- a hint: without memory for it the waiter polls
        redis.pcall('SADD', w, channel)
        redis.pcall('PEXPIRE', w, left + 1000)
    end
    return 2, left, stands
end

local answers = {'', 0, 0}
for i = 0, (#KEYS - 2) / 4 - 1 do
    local v, l, w, e = unpack(KEYS, 3 + 4 * i, 6 + 4 * i)
    local offer, instead_of, early, channel, waited = unpack(ARGV, 3 + 5 * i, 7 + 5 * i)
    local worth, nonce, left = state(v)
    local got, wait, token = 0, 0, ''
    if offer ~= '' and (worth ~= 2 or early ~= '') then
        got, wait, token = lease(l, w, e, offer, instead_of, channel, waited)
        if type(got) == 'table' then return got end
    end
    for _, one in ipairs({worth, nonce, left, got, wait, token}) do
        answers[#answers + 1] = one
    end
end
local time = redis.call('TIME')
answers[1], answers[2] = meta[1] or '', tonumber(meta[2] or 0)
answers[3] = time[1] * 1000 + math.floor(time[2] / 1000)
return answers
