//! The functions of thermal.c in Rust. Temperatures are in degrees Celsius, humidity in percent.
//!
//! ```text
//! rustup target add wasm32-unknown-unknown
//! rustc --edition 2024 --crate-type cdylib --target wasm32-unknown-unknown -O -C panic=abort -C strip=symbols thermal.rs
//! ```

#[unsafe(no_mangle)]
pub extern "C" fn c_to_f(celsius: f64) -> f64 {
    celsius * 1.8 + 32.0
}

/// The Magnus formula with Sonntag's constants (WMO No. 8). NaN where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn dew_point(celsius: f64, humidity: f64) -> f64 {
    if !(1e-3..=100.0).contains(&humidity) {
        return f64::NAN;
    }
    let gamma = (humidity / 100.0).ln() + 17.62 * celsius / (243.12 + celsius);
    243.12 * gamma / (17.62 - gamma)
}

/// How warm it feels: the heat index of the US National Weather Service.
#[unsafe(no_mangle)]
pub extern "C" fn heat_load(celsius: f64, humidity: f64) -> f64 {
    if !(0.0..=100.0).contains(&humidity) {
        return f64::NAN;
    }
    let (t, h) = (c_to_f(celsius), humidity);
    let simple = 0.5 * (t + 61.0 + (t - 68.0) * 1.2 + h * 0.094);
    let index = if (simple + t) * 0.5 >= 80.0 {
        let index =
            -42.379 + 2.04901523 * t + 10.14333127 * h - 0.22475541 * t * h - 0.00683783 * t * t - 0.05481717 * h * h
                + 0.00122874 * t * t * h
                + 0.00085282 * t * h * h
                - 0.00000199 * t * t * h * h;
        if h < 13.0 && (80.0..=112.0).contains(&t) {
            index - (13.0 - h) / 4.0 * ((17.0 - (t - 95.0).abs()) / 17.0).sqrt()
        } else if h > 85.0 && (80.0..=87.0).contains(&t) {
            index + (h - 85.0) / 10.0 * ((87.0 - t) / 5.0)
        } else {
            index
        }
    } else {
        (simple + t) * 0.5
    };
    (index - 32.0) / 1.8
}
