-- abandon: give a lease back without a value.
--
-- KEYS  l, w, e
-- ARGV  token, error for those who waited for this lease ('' none), its life in ms
-- returns  1, or 0: the lease is not this token's, nothing is touched
--
-- One step, because a lease that passed on between the look and the deletion would be
-- taken from its new holder.
local l, w, e = unpack(KEYS)
if redis.call('GET', l) ~= ARGV[1] then return 0 end
redis.call('DEL', l)            -- first: what follows is then not refused as OOM
if ARGV[2] ~= '' then
    redis.pcall('SET', e, ARGV[1] .. ARGV[2], 'PX', ARGV[3])
end
for _, channel in ipairs(redis.call('SMEMBERS', w)) do
    redis.pcall('PUBLISH', channel, l)
end
redis.call('DEL', w)
return 1
