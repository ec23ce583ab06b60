-- Finish: dedup.Finish on the record under the fence.
local fence, nonce = tonumber(ARGV[4]), ARGV[5]
local outcome, keeps, answer, refusal, bodyms, content = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]

local function say(word, ...) return { word, nonce, int(now), int(wall), ... } end

local s = load(fence)
if not s or s.damaged then
	return say('absent')
elseif s.nonce ~= nonce then
	return say('overtaken')
elseif not open(s) then
	return say('again', encode(s))
end
if s.attempt > 1 and outcome ~= DONE then
	outcome = UNKNOWN
end
conclude(s, outcome, keeps)
local waited = tell(s)
if outcome ~= UNKNOWN then
	s.answer, s.refusal = answer, refusal
	if content and (s.held == 1 or waited) then
		local ms = s.held == 1 and math.min(bodyms, (s.expires - now) / 1000) or 5000
		if ms >= 1 then
			redis.call('SET', base .. 'b:' .. int(fence), content, 'PX', int(ms))
		end
	end
else
	s.refusal = refusal
end
keep(s)
return say('ended', s.text)
