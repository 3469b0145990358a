--- A ready-made ring kernel: outliers in streams of measurements by the robust z-score, with a
-- sliding window of up to 64 values for each of 256 series (kernels/anomaly.cu has the formulas).
-- local anomaly = require "rk.kernels.anomaly"
-- local pid = runtime:spawn "anomaly"
-- pid:call(anomaly.Configure { threshold = 5, window = 32 })       -- defaults: 3.5 and 64
-- local v = pid:call(anomaly.Measurement { series = 0, sequence = 1, value = 20.5 })
-- if v.anomaly then print(v.value, v.score, v.median) end
-- Series are numbered from 0; another window forgets what was seen. A measurement with a series from
-- 256 on or a value that is not finite comes back with accepted = false.
local rk = require "rk"

local anomaly = {}

--- The limits of one instance: series, and values of each that it remembers.
anomaly.SERIES, anomaly.WINDOW = 256, 64
--- The score, up or down, of a value after a window of values that were all equal.
anomaly.FAR = 1e9

anomaly.Measurement = rk.message("Measurement", {
  series = "u32", sequence = "u64", value = "f64",
})
anomaly.Verdict = rk.message("Verdict", {
  series = "u32", sequence = "u64", value = "f64",
  score = "f64", median = "f64", anomaly = "bool", accepted = "bool",
})
--- Values of one series in order; `first` is the sequence number of the first one.
anomaly.MeasurementBatch = rk.message("MeasurementBatch", {
  series = "u32", first = "u64", values = "f64[256]",
})
--- flags: 0 normal, 1 anomaly, 2 refused; `anomalies` and `refused` count them.
anomaly.VerdictBatch = rk.message("VerdictBatch", {
  series = "u32", first = "u64", scores = "f32[256]", flags = "u8[256]",
  anomalies = "u32", refused = "u32",
})
--- threshold > 0, window 8..64; zero keeps what is.
anomaly.Configure = rk.message("AnomalyConfigure", { threshold = "f64", window = "u32" })
--- The settings now in force, and whether the request was within the limits.
anomaly.Ack = rk.message("AnomalyAck", { accepted = "bool", threshold = "f64", window = "u32" })

anomaly.kernel = rk.kernel("anomaly", {
  file = "anomaly.cu",
  accepts = { anomaly.Measurement, anomaly.MeasurementBatch, anomaly.Configure },
  replies = { anomaly.Verdict, anomaly.VerdictBatch, anomaly.Ack },
  block = 64,
})

return anomaly
