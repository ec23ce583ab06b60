-- Assert: a holder's own record of a call, against what stands here: the further state of the same claim, the record
-- where none is, and nothing where another claim stands.
local mine, bodyms, content = decode(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local function say(word, ...) return { word, mine.nonce, int(now), int(wall), ... } end

-- further is how far a state has come.
local function further(s)
	if s.outcome == RUNNING then
		return 0
	end
	return s.outcome == UNKNOWN and 1 or 2
end

local function answered()
	if content and mine.held == 1 and mine.expires - now >= 1000 then
		redis.call('SET', base .. 'b:' .. int(mine.fence), content, 'PX', int(math.min(bodyms, (mine.expires - now) / 1000)))
	end
end

local s = load(mine.fence)
if s and not s.damaged then
	if s.nonce ~= mine.nonce then -- an operator has settled it, or it goes on under a higher fence
		return say('moved', encode(s))
	elseif further(mine) <= further(s) or not open(s) then
		list(s)
		return say('stands', encode(s))
	end
	settle(s, mine.outcome)
	mine.settled = s.settled
	keep(mine)
	tell(mine)
	answered()
	return say('advanced', encode(mine))
end
if not live(mine) and now - math.max(mine.expires, mine.ended) > GRACE * 500 then
	return say('stands', '') -- over, and too old for the absence to mean a loss
end
local other
if live(mine) then
	eachkey(mine, function(key)
		local at = pointer(key)
		local there = at and at ~= mine.fence and (load(at) or damaged(at))
		if there and live(there) then
			other = there
		end
	end)
end
if other then
	return say('overtaken', encode(other))
end
if live(mine) or mine.generation ~= 0 and now < mine.expires then
	eachkey(mine, function(key, print)
		local at = pointer(key)
		if not at or at <= mine.fence or live(mine) then
			redis.call('SET', base .. 'k:' .. key, int(mine.fence) .. ' ' .. print)
		end
	end)
end
if not s and mine.outcome ~= NOTSENT then
	local ok, why = pcall(charge, mine)
	if not ok and not uncounted(why) then -- which the next claim tells of
		error(why)
	end
	if mine.outcome == FAILED then
		refund(mine, false, mine.cost)
	end
end
keep(mine)
answered()
bump(mine.fence)
return say('restored', encode(mine))
