-- Usage: what an agent has used of its limits.
local who = { tenant = ARGV[4], agent = ARGV[5] }
local first, calls = math.floor(now / MINUTE) - BUCKETS + 1, 0
local h = redis.call('HGETALL', hours(who))
for i = 1, #h, 2 do
	local minute = tonumber(h[i])
	if minute and minute >= first then
		calls = calls + tonumber(h[i + 1])
	end
end
local d = redis.call('HMGET', days(who, math.floor(now / DAY)), 'spend', 't:' .. ARGV[6])
return { 'usage', ARGV[6], int(now), int(wall), int(calls), d[1] or '0', d[2] or '0' }
