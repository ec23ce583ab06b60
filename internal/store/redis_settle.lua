-- Settle: the end of a claim that is known by its nonce: one that was given up, or that a process which died had open.
local nonce, outcome = ARGV[4], tonumber(ARGV[5])

local function say(word, ...) return { word, nonce, int(now), int(wall), ... } end

local function settled(s)
	if s.outcome == RUNNING and s.held == 1 then
		conclude(s, (outcome == NOTSENT and s.attempt > 1) and UNKNOWN or outcome, 0)
		keep(s)
		tell(s)
		return say('ended', s.text)
	end
	return say('again', encode(s))
end

local fence = tonumber(get('n:' .. nonce) or 0)
if fence and fence > 0 and load(fence) then
	return settled(load(fence))
end
local other = false
for i = 6, #ARGV do
	local at = pointer(ARGV[i])
	local s = at and (load(at) or damaged(at))
	if s and s.nonce == nonce then
		return settled(s)
	end
	other = other or s and (live(s) or s.generation ~= 0)
end
return say(other and 'other' or 'absent')
