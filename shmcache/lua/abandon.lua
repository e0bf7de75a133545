-- abandon: give a lease back without a value.
--
-- KEYS  l, w, e
-- ARGV  token, error for those who waited for this lease ('' none), its life in ms
-- returns  1, or 0: the lease is not this token's, nothing is touched
--
-- One step, because a lease that passed on between the look and the deletion would be
-- taken from its new holder.
local l, w, e = unpack(KEYS)
if redis.pcall('GET', l) ~= ARGV[1] then return 0 end
local freed = redis.pcall('DEL', l)     -- first: what follows is not refused as OOM
if type(freed) == 'table' then return freed end         -- by a replica, as an error
if ARGV[2] ~= '' then
    redis.pcall('SET', e, ARGV[1] .. ARGV[2], 'PX', ARGV[3])
end
local channels = redis.pcall('SMEMBERS', w)
for _, channel in ipairs(channels) do redis.pcall('PUBLISH', channel, l) end
redis.call('DEL', w)
return 1
