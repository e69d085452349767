use super::*;

#[test]
fn secret_names_are_known_in_every_spelling() {
    for key in [
        "password",
        "DB_PASSWORD",
        "api_key",
        "apiKey",
        "api-key",
        "apikey",
        "X-API-Key",
        "client_secret",
        "token",
        "access_token",
        "secretAccessKey",
        "aws_access_key_id",
        "license_key",
        "key_pem",
        "private_key",
        "credentials",
        "authorization",
        "signing-key",
        "cookie",
        "sasl.jaas.password",
        "bearer_token",
        "passwd",
        "shared_access_key",
        "x-honeycomb-team",
        "ingest_key",
        "community",
        "secret_id",
        "token_value",
    ] {
        assert_eq!(class_of(key), Class::Secret, "{key}");
    }
}

#[test]
fn what_is_about_a_secret_is_none() {
    for key in [
        "key_file",
        "token_file",
        "password_file",
        "token_url",
        "secret_name",
        "client_id",
        "authenticator",
        "token_type",
        "api_key_header",
        "username",
        "endpoint",
        "max_token_length",
        "bypass",
        "compass",
        "tokenizer",
        "keyboard",
        "cert_pem",
        "ca_pem",
        "metadata_path",
        "",
        "🔑",
    ] {
        assert_eq!(class_of(key), Class::Plain, "{key}");
    }
}

#[test]
fn a_bare_key_depends_on_its_value() {
    for key in ["key", "routing_key", "metadata_keys", "partition-key"] {
        assert_eq!(class_of(key), Class::Material, "{key}");
    }
    assert_eq!(class_of("datasource"), Class::Connection);
    assert_eq!(class_of("azure_connection_string"), Class::Connection);
}
