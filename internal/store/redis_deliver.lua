-- Deliver: an answer reached its caller whole, and its call stands in the way for a shorter while.
local fence, window = tonumber(ARGV[4]), tonumber(ARGV[5])
local s = load(fence)
if s and not s.damaged and s.held == 1 and not open(s) and s.ended + window < s.expires then
	s.expires = s.ended + window
	keep(s)
end
return { 'delivered', ARGV[4], int(now), int(wall) }
