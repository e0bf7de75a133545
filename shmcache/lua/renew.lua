-- renew: let a lease stand for another life, if it still is this token's.
--
-- KEYS  l, w
-- ARGV  token, life in ms
-- returns  1, or 0: the lease is lost, and is not made again
--
-- One step, because a lease that passed on between the look and the renewal would
-- be prolonged for its new holder.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local renewed = redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
if type(renewed) == 'table' then return renewed end     -- by a replica, as an error
redis.pcall('PEXPIRE', KEYS[2], ARGV[2] + 1000)
return 1
