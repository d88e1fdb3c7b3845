//! The cluster's store, looked at before a server opens it: SQLite takes an empty file for a new database, and finds a
//! damaged page only when somebody asks for what is on it.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::layout::sync_directory_of;
use crate::{Error, Layout};

/// A larger store is looked at less closely, for the time that it would take, in bytes.
const QUICK_CHECK_LIMIT: u64 = 256 << 20;

/// Makes sure that the store is whole, or that there never was one. Call it when no server runs.
///
/// # Errors
/// It is damaged, truncated or gone. It is left as it is.
pub(crate) fn check(layout: &Layout) -> Result<(), Error> {
    let path = layout.store();
    let damaged = |why: String| Err(Error::Store { path: path.clone(), why });
    let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if length == 0 {
        return match (layout.was_up()?, path.exists()) {
            (true, true) => damaged("it is empty".to_owned()),
            (true, false) => damaged("it is gone".to_owned()),
            // A first start that was cut off leaves an empty file.
            (false, _) => Ok(()),
        };
    }
    match look(&path, length <= QUICK_CHECK_LIMIT) {
        Ok(found) if found == "ok" => Ok(()),
        // Its first line names the database, which is the only one.
        Ok(found) => damaged(found.lines().filter(|line| !line.starts_with("***")).collect::<Vec<_>>().join("; ")),
        Err(rusqlite::Error::SqliteFailure(error, text)) => match error.code {
            rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase => {
                damaged(text.unwrap_or_else(|| error.to_string()))
            }
            // Full, busy or not readable: the server says it, if it is still so then.
            _ => Ok(()),
        },
        Err(error) => damaged(error.to_string()),
    }
}

/// What SQLite says of it: `ok`, or the first fault. It may finish what a server began that was killed.
fn look(path: &PathBuf, whole: bool) -> rusqlite::Result<String> {
    let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    if whole {
        store.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
    } else {
        store.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map(|_| "ok".to_owned())
    }
}

/// Where the store is put as long as not all of it is there.
const UNFINISHED: &str = "set-aside-unfinished";

/// Moves the store to a directory beside it, which is returned; `None` if there is none. The next start begins an empty
/// one. What was cut off is finished by the next call. Call it when no server runs.
pub(crate) fn set_aside(layout: &Layout) -> Result<Option<PathBuf>, Error> {
    let path = layout.store();
    let unfinished = path.with_file_name(UNFINISHED);
    if path.exists() && unfinished.join(path.file_name().unwrap_or_default()).exists() {
        // A new store was begun: what is beside it belongs to it.
        finish(&unfinished)?;
    }
    // The store first. A log without it is nothing to SQLite, while it would be taken without its log for all there is.
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.clone().into_os_string();
        from.push(suffix);
        let from = PathBuf::from(from);
        if !from.exists() {
            continue;
        }
        fs::create_dir_all(&unfinished).map_err(Error::io("make the directory", &unfinished))?;
        let to = unfinished.join(from.file_name().unwrap_or_default());
        fs::rename(&from, &to).map_err(Error::io("move", &from))?;
        sync_directory_of(&to).and_then(|()| sync_directory_of(&from)).map_err(Error::io("write", &from))?;
    }
    let aside = if unfinished.exists() { Some(finish(&unfinished)?) } else { None };
    layout.set_was_up(false)?;
    Ok(aside)
}

/// Gives the directory the name that says when.
fn finish(unfinished: &Path) -> Result<PathBuf, Error> {
    let format = format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:3]Z");
    let now = OffsetDateTime::now_utc().format(format).expect("every time has these parts");
    let aside = unfinished.with_file_name(format!("set-aside-{now}"));
    fs::rename(unfinished, &aside).map_err(Error::io("move", unfinished))?;
    sync_directory_of(&aside).map_err(Error::io("write", &aside))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::ErrorId;

    /// A store of some 100 pages, as a server leaves it.
    fn with_store() -> (TempDir, Layout) {
        let (root, layout) = Layout::temporary();
        let store = Connection::open(layout.store()).unwrap();
        let filler = "x".repeat(1000);
        store
            .execute_batch(&format!(
                "PRAGMA journal_mode=WAL; CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT, value TEXT);
                 CREATE INDEX kine_name ON kine (name);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
                 INSERT INTO kine SELECT i, 'key' || i, '{filler}' FROM n;"
            ))
            .unwrap();
        (root, layout)
    }

    fn fault(layout: &Layout) -> Option<ErrorId> {
        check(layout).err().map(|error| error.id())
    }

    #[test]
    fn a_whole_store_is_fine_and_keeps_what_a_killed_server_wrote() {
        let (root, layout) = with_store();
        assert_eq!(fault(&layout), None);
        // As after `kill -9`: what was committed is in the log alone.
        let other = Layout::at(&root.path().join("killed"));
        other.prepare().unwrap();
        let writer = Connection::open(layout.store()).unwrap();
        writer.execute_batch("INSERT INTO kine VALUES (1000, 'last', 'words');").unwrap();
        for suffix in ["", "-wal"] {
            fs::copy(format!("{}{suffix}", layout.store().display()), format!("{}{suffix}", other.store().display()))
                .unwrap();
        }
        assert_eq!(fault(&other), None);
        let kept: i64 = Connection::open(other.store())
            .unwrap()
            .query_row("SELECT count(*) FROM kine", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 401);
    }

    #[test]
    fn a_damaged_store_is_said_and_left_as_it_is() {
        let (_root, layout) = with_store();
        let whole = fs::read(layout.store()).unwrap();
        let corrupt = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut content = whole.clone();
            change(&mut content);
            fs::write(layout.store(), &content).unwrap();
            assert_eq!(fault(&layout), Some(ErrorId::StoreCorrupt));
            assert_eq!(fs::read(layout.store()).unwrap(), content);
        };
        corrupt(&|content| content.truncate(whole.len() / 2));
        corrupt(&|content| content.truncate(1000));
        corrupt(&|content| content[..16].fill(b'x'));
        corrupt(&|content| content[whole.len() / 2..][..8192].fill(0));
        corrupt(&|content| content.fill(b'x'));
    }

    #[test]
    fn a_store_that_is_gone_is_missed_once_there_was_one() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(fault(&layout), None);
        fs::write(layout.store(), "").unwrap();
        assert_eq!(fault(&layout), None, "a first start was cut off");
        layout.set_was_up(true).unwrap();
        assert_eq!(fault(&layout), Some(ErrorId::StoreCorrupt));
        fs::remove_file(layout.store()).unwrap();
        assert_eq!(fault(&layout), Some(ErrorId::StoreCorrupt));
    }

    #[test]
    fn a_store_is_set_aside_with_all_that_belongs_to_it() {
        let (_root, layout) = with_store();
        layout.set_was_up(true).unwrap();
        fs::write(layout.store().with_file_name("state.db-wal"), "log").unwrap();
        let before = fs::read(layout.store()).unwrap();
        let aside = set_aside(&layout).unwrap().unwrap();
        assert_eq!(fs::read(aside.join("state.db")).unwrap(), before);
        assert_eq!(fs::read(aside.join("state.db-wal")).unwrap(), b"log");
        assert_eq!(fs::read_dir(layout.store().parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fault(&layout), None);
        assert_eq!(set_aside(&layout).unwrap(), None);
    }

    #[test]
    fn a_move_that_is_cut_off_leaves_no_store_without_its_log() {
        let (_root, layout) = with_store();
        layout.set_was_up(true).unwrap();
        let log = layout.store().with_file_name("state.db-wal");
        fs::write(&log, "log").unwrap();
        // The log cannot be moved onto a directory.
        let in_the_way = layout.store().with_file_name(UNFINISHED).join("state.db-wal");
        fs::create_dir_all(&in_the_way).unwrap();
        set_aside(&layout).unwrap_err();
        assert!(!layout.store().exists() && log.exists());
        assert_eq!(fault(&layout), Some(ErrorId::StoreCorrupt), "no start goes on with a part of it");

        fs::remove_dir(&in_the_way).unwrap();
        let aside = set_aside(&layout).unwrap().unwrap();
        assert!(aside.join("state.db").exists() && aside.join("state.db-wal").exists());
        assert_eq!(fs::read_dir(layout.store().parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fault(&layout), None);
    }
}
