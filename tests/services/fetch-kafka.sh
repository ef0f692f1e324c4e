#!/usr/bin/env bash
# Fetches the jars of Apache Kafka (pom.xml beside this file) into the user's cache, once, and prints their folder.
# Needs Java 17 or later and Maven. Safe to run several times at once: the first one fetches, the others wait.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millstream
jars=$cache/kafka-$version

if [[ ! -d $jars ]]; then
    for tool in java mvn; do
        if ! command -v "$tool" >/dev/null; then
            echo "$tool is not installed; on Debian: apt-get install default-jre-headless maven" >&2
            exit 1
        fi
    done
    mkdir -p "$cache"
    exec 9>"$cache/kafka-$version.lock"
    flock 9
    if [[ ! -d $jars ]]; then
        echo "fetching Apache Kafka $version into $jars" >&2
        part=$(mktemp -d "$cache/kafka-$version.part.XXXXXX")
        trap 'rm -rf "$part"' EXIT
        mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies \
            -DoutputDirectory="$part" -DincludeScope=runtime >&2
        chmod 755 "$part"
        # Only a complete folder gets the final name.
        mv "$part" "$jars"
    fi
fi
echo "$jars"
