/* Functions about heat and humidity, for SQL. No library is needed: `build.sh` makes thermal.wasm of this file alone.
 *
 * Temperatures are in degrees Celsius, humidity is relative, in percent. A humidity outside 0 to 100 gives NaN.
 * thermal.rs is the same in Rust.
 */

#define EXPORT(name) __attribute__((export_name(#name)))

/* The natural logarithm of a finite x > 0, to the last few bits: x = m * 2^e with m near 1, and ln m by the series of
 * atanh. (With wasi-libc one would call log; so the example needs nothing but clang.) */
static double ln(double x) {
    union { double value; unsigned long long bits; } u = { x };
    int exponent = (int)(u.bits >> 52) - 1023;
    u.bits = (u.bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL;
    double m = u.value;
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent += 1;
    }
    double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0.0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * square + 1.0 / k;
    return 2.0 * s * sum + exponent * 0.6931471805599453;
}

static int is_humidity(double humidity) {
    return humidity >= 0.0 && humidity <= 100.0;
}

EXPORT(c_to_f) double c_to_f(double celsius) {
    return celsius * 1.8 + 32.0;
}

/* The dew point by the Magnus formula, with the constants of D. Sonntag (1990) that the WMO's Guide to Instruments
 * (No. 8, annex 4.B) uses: good to 0.1 degrees between -45 and 60. NaN for dry air (0 percent), which has none. */
EXPORT(dew_point) double dew_point(double celsius, double humidity) {
    if (!is_humidity(humidity) || humidity < 1e-3)
        return __builtin_nan("");
    double gamma = ln(humidity / 100.0) + 17.62 * celsius / (243.12 + celsius);
    return 243.12 * gamma / (17.62 - gamma);
}

/* How warm it feels: the heat index of the US National Weather Service, by L. P. Rothfusz (Technical Attachment SR 90-23,
 * 1990) with the adjustments of https://www.wpc.ncep.noaa.gov/html/heatindex_equation.shtml, from and to Celsius. */
EXPORT(heat_load) double heat_load(double celsius, double humidity) {
    if (!is_humidity(humidity))
        return __builtin_nan("");
    double t = c_to_f(celsius), h = humidity;
    double index = 0.5 * (t + 61.0 + (t - 68.0) * 1.2 + h * 0.094);
    if ((index + t) * 0.5 >= 80.0) {
        index = -42.379 + 2.04901523 * t + 10.14333127 * h - 0.22475541 * t * h - 0.00683783 * t * t
              - 0.05481717 * h * h + 0.00122874 * t * t * h + 0.00085282 * t * h * h - 0.00000199 * t * t * h * h;
        if (h < 13.0 && t >= 80.0 && t <= 112.0)
            index -= (13.0 - h) / 4.0 * __builtin_sqrt((17.0 - __builtin_fabs(t - 95.0)) / 17.0);
        else if (h > 85.0 && t >= 80.0 && t <= 87.0)
            index += (h - 85.0) / 10.0 * ((87.0 - t) / 5.0);
    } else {
        index = (index + t) * 0.5;
    }
    return (index - 32.0) / 1.8;
}
