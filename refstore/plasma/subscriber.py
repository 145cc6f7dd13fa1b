"""The calls of a client that is notified of new and deleted objects."""

from __future__ import annotations

import socket
from typing import Any

from refstore._store import Store
from refstore.plasma.ids import ObjectID, as_plasma_errors
from refstore.plasma.notifications import Subscription, decoded, received

__all__ = ["Subscriber"]


class Subscriber:
    """The notifications of a client, of which there are none before `subscribe()`."""

    __slots__ = ("__weakref__", "_store", "_subscription")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscription: Subscription | None = None

    def subscribe(self) -> None:
        """Begins to be notified of new and deleted objects, whoever makes or deletes them.

        Those are told of that clients of this module put and delete, and what the store evicts.

        Errors:
            PlasmaStoreFull: there is no room for it.
            RefstoreError: there are 128 subscribers.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.subscribe()
            >>> object_id = client.put_raw_buffer(b"abc", metadata=b"letters")
            >>> client.get_next_notification() == (object_id, 3, 7)
            True
            >>> client.disconnect()
        """
        if self._subscription is None:
            with as_plasma_errors():
                self._subscription = Subscription(self._store)

    def get_next_notification(self) -> tuple[ObjectID, int, int]:
        """Waits for the next notification.

        Returns:
            The id, the bytes of data and those of metadata; -1 and -1 if the object is gone.

        Errors:
            ValueError: this client has not subscribed.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.subscribe()
            >>> object_id = client.put_raw_buffer(b"abc")
            >>> client.delete([object_id])
            >>> [client.get_next_notification()[1] for _ in range(2)]
            [3, -1]
            >>> client.disconnect()
        """
        ids, data_sizes, metadata_sizes = decoded(received(self._subscribed().socket))
        return ids[0], data_sizes[0], metadata_sizes[0]

    def get_notification_socket(self) -> socket.socket:
        """Returns a socket that has a message for each notification, for an event loop to wait on.

        Each is 8 bytes with its length, a native unsigned long, and then what
        `decode_notifications()` takes.

        Returns:
            A socket of one's own over the same stream.

        Errors:
            ValueError: this client has no subscription.

        Example:
            >>> from refstore import plasma
            >>> client = plasma.connect(store.path)
            >>> client.subscribe()
            >>> with client.get_notification_socket() as told:
            ...     told.fileno() > 0
            True
            >>> client.disconnect()
        """
        return self._subscribed().socket.dup()

    def decode_notifications(self, buf: bytes) -> tuple[Any, Any, Any]:
        """Decodes a message of the notification socket.

        Parameters:
            buf: the message, without its length.

        Returns:
            Three lists: ids, bytes of data, bytes of metadata.

        Example:
            >>> from refstore import plasma
            >>> plasma.connect(store.path).decode_notifications(b"")
            ([], [], [])
        """
        return decoded(buf)

    def _subscribed(self) -> Subscription:
        if self._subscription is None:
            raise ValueError("this client is not notified of anything: call subscribe() first")
        return self._subscription

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close(self._store)
