-- examples/embed/app.lua -- the configuration of examples/embed/actors.c, run by rk_open with the
-- globals `rk` and `runtime`. What differs between installations is said here and not in C.
rk.message("Reading", { sensor = "u32", celsius = "f64" })
local Alarm = rk.message("Alarm", { sensor = "u32", celsius = "f64", limit = "f64" })

local limits = { [1] = 80, [2] = 25 } -- degrees, by sensor; others are never too hot

-- What to do with a reading: the C program asks this actor by its name.
runtime:spawn({
  call = {
    Reading = function(_, reading)
      local limit = limits[reading.sensor] or math.huge
      if reading.celsius > limit then
        return Alarm { sensor = reading.sensor, celsius = reading.celsius, limit = limit }
      end
      return reading
    end,
  },
}, { name = "policy" })
