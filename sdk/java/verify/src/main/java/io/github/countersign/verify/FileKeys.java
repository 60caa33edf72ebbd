package io.github.countersign.verify;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.LongSupplier;

/**
 * A key set in a file, which is read again when it changes.
 *
 * <p>If the new content cannot be used, the last good keys are used for at most 24 hours.
 */
final class FileKeys implements KeySource {
    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");

    /** How often the file is looked at. */
    private static final long INTERVAL_NANOS = Duration.ofSeconds(1).toNanos();

    private final Path path;
    private final LongSupplier clock;
    private final ReentrantLock lock = new ReentrantLock();
    private Stamp stamp;
    private KeySet keys;
    private long confirmedAt;
    private long lookedAt;

    private record Stamp(FileTime modified, long size, Object file) {}

    FileKeys(Path path, LongSupplier clock) {
        this.path = path;
        this.clock = clock;
        try {
            // The stamp is older than the content, so that a change in between is noticed.
            this.stamp = look();
            this.keys = read();
        } catch (IOException | KeySet.Malformed e) {
            throw new IllegalArgumentException("jwksFile cannot be used: " + e);
        }
        this.confirmedAt = clock.getAsLong();
        this.lookedAt = System.nanoTime();
    }

    @Override
    public KeySet forKey(String keyId) throws KeysUnavailable {
        lock.lock();
        try {
            if (System.nanoTime() - lookedAt >= INTERVAL_NANOS) {
                refresh();
            }
            // If the clock was set back, the age counts from the new time.
            long now = clock.getAsLong();
            confirmedAt = Math.min(confirmedAt, now);
            if (now >= confirmedAt + RemoteKeys.LAST_GOOD_SECONDS) {
                throw unusable();
            }
            return keys;
        } finally {
            lock.unlock();
        }
    }

    @Override
    public void fetchNow() throws KeysUnavailable {
        lock.lock();
        try {
            if (!refresh()) {
                throw unusable();
            }
        } finally {
            lock.unlock();
        }
    }

    private boolean refresh() {
        lookedAt = System.nanoTime();
        try {
            Stamp found = look();
            if (!found.equals(stamp)) {
                keys = read();
                stamp = found;
            }
        } catch (IOException | KeySet.Malformed e) {
            LOG.log(System.Logger.Level.WARNING, "the file of keys cannot be used: {0}", e.toString());
            return false;
        }
        confirmedAt = clock.getAsLong();
        return true;
    }

    private Stamp look() throws IOException {
        BasicFileAttributes found = Files.readAttributes(path, BasicFileAttributes.class);
        return new Stamp(found.lastModifiedTime(), found.size(), found.fileKey());
    }

    private KeySet read() throws IOException, KeySet.Malformed {
        try (InputStream file = Files.newInputStream(path)) {
            KeySet found = KeySet.parse(file.readNBytes(KeySet.MAX_BYTES + 1));
            if (found.size() == 0) {
                throw new KeySet.Malformed("the key set has no usable key");
            }
            return found;
        }
    }

    private static KeysUnavailable unusable() {
        return new KeysUnavailable("the file of keys cannot be used");
    }
}
