//! Where the database is and how to log in.

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::config::{PostgresTableConfig, PostgresTlsMode};
use crate::error::ConnectorError;

const PORT: u16 = 5432;
/// The name by which the database lists this client, unless the URL has another.
const APPLICATION: &str = "millstream";

/// What the URL says of TLS: nothing, that there is none, or what is checked.
pub(super) type UrlTls = Option<Option<PostgresTlsMode>>;

/// The client's configuration, without TLS.
pub(super) fn config(options: &PostgresTableConfig) -> Result<(Config, UrlTls), ConnectorError> {
    let (mut config, tls) = match &options.url {
        Some(url) => {
            let beside = [
                ("host", options.host.is_some()),
                ("port", options.port.is_some()),
                ("database", options.database.is_some()),
                ("user", options.user.is_some()),
                ("password", options.password.is_some()),
            ];
            if let Some((option, _)) = beside.into_iter().find(|(_, written)| *written) {
                return Err(ConnectorError::configuration(option, "`url` says it already; write one of them"));
            }
            of_url(url.expose())?
        }
        None => (of_parts(options)?, None),
    };
    if config.get_application_name().is_none() {
        config.application_name(APPLICATION);
    }
    // Whether there is TLS is decided by what is handed to the client; where there is, nothing else will do.
    config.ssl_mode(match (&options.tls, tls) {
        (Some(_), _) | (_, Some(Some(_))) => SslMode::Require,
        _ => SslMode::Disable,
    });
    Ok((config, tls))
}

fn of_parts(options: &PostgresTableConfig) -> Result<Config, ConnectorError> {
    let missing = |option| ConnectorError::configuration(option, "missing; write it, or `url`");
    let host = options.host.as_deref().filter(|host| !host.is_empty()).ok_or_else(|| missing("host"))?;
    let user = options.user.as_deref().filter(|user| !user.is_empty()).ok_or_else(|| missing("user"))?;
    let mut config = Config::new();
    config.host(host).port(options.port.unwrap_or(PORT)).user(user);
    if let Some(password) = &options.password {
        config.password(password.expose());
    }
    if let Some(database) = &options.database {
        config.dbname(database);
    }
    Ok(config)
}

/// Reads the URL. Errors show nothing of it: a password may be anywhere in what is no URL.
fn of_url(url: &str) -> Result<(Config, UrlTls), ConnectorError> {
    let wrong = |why: String| ConnectorError::configuration("url", why);
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong("it is no `postgres://user:password@host:5432/database`".to_owned()));
    }
    // The client knows fewer values of `sslmode` than we do.
    let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
    let (modes, others): (Vec<_>, Vec<_>) = parameters
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .partition(|parameter| parameter.starts_with("sslmode="));
    let tls = match modes.as_slice() {
        [] => None,
        [mode] => Some(match mode.trim_start_matches("sslmode=") {
            "disable" => None,
            "require" => Some(PostgresTlsMode::Require),
            "verify-ca" => Some(PostgresTlsMode::VerifyCa),
            "verify-full" => Some(PostgresTlsMode::VerifyFull),
            "allow" | "prefer" => {
                return Err(wrong(
                    "a `sslmode` that may leave the connection open is not taken; write `require`, `verify-full` or `disable`"
                        .to_owned(),
                ));
            }
            _ => return Err(wrong("`sslmode` is one of disable, require, verify-ca and verify-full".to_owned())),
        }),
        _ => return Err(wrong("`sslmode` stands there twice".to_owned())),
    };
    let plain = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    let config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        wrong(format!("it cannot be read{cause}"))
    })?;
    if config.get_user().is_none_or(str::is_empty) {
        return Err(wrong("it names no user".to_owned()));
    }
    if config.get_hosts().is_empty() {
        return Err(wrong("it names no host".to_owned()));
    }
    Ok((config, tls))
}

/// The database for messages: `host:port/database`.
pub(super) fn place(config: &Config) -> String {
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => folder.join(format!(".s.PGSQL.{port}")).display().to_string(),
        }
    });
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.collect::<Vec<_>>().join(","))
}
