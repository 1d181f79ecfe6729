-- Keep the positions of channels that somebody follows, however long nobody says anything there.
-- KEYS: meta...   ARGV: meta_ttl
for i = 1, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    keep(KEYS[i], ARGV[1])
  end
end
return #KEYS
