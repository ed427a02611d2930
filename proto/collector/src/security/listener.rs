//! Accepts connections: so many at once, each with its handshake in time, and ends those that lost their trust.

use super::{Peer, identity::Identity, tls::Tls};
use crate::metrics::Metrics;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; they are what costs most before a peer is known.
const HANDSHAKES_MAX: usize = 64;
/// When the process is out of descriptors, accepting again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that the server may speak on.
pub(crate) struct Connection {
    stream: Stream,
    peer: Peer,
    /// Ready when the connection is to end.
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts until the receiver is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    connections_max: usize,
    metrics: Arc<Metrics>,
) -> (ReceiverStream<io::Result<Connection>>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(1);
    let accepting = async move {
        let places = Arc::new(Semaphore::new(connections_max));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; check the limits of this process");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                metrics.refused("too_many");
                continue;
            };
            // Small messages go out at once.
            if tcp.set_nodelay(true).is_err() {
                continue;
            }
            let (sender, tls, metrics) = (sender.clone(), tls.clone(), Arc::clone(&metrics));
            let handshakes = Arc::clone(&handshakes);
            tokio::spawn(async move {
                let connection = match tls {
                    None => Connection {
                        stream: Stream::Plain(tcp),
                        peer: Peer::new(address, None),
                        ended: None,
                        _place: place,
                    },
                    Some(tls) => {
                        let shaken = timeout(HANDSHAKE_TIMEOUT, async {
                            let turn = handshakes.acquire().await;
                            let connection = handshake(tcp, address, &tls, place).await;
                            drop(turn);
                            connection
                        });
                        match shaken.await {
                            Ok(Ok(connection)) => connection,
                            Ok(Err(error)) => {
                                metrics.refused("handshake");
                                tracing::debug!(%address, %error, "TLS handshake failed");
                                return;
                            }
                            Err(_) => return metrics.refused("handshake_timeout"),
                        }
                    }
                };
                // A server that stops takes no more.
                drop(sender.send(Ok(connection)).await);
            });
        }
    };
    (ReceiverStream::new(receiver), accepting)
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    tls: &Tls,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    let mut generation = tls.generation();
    generation.mark_unchanged();
    let stream = TlsAcceptor::from(tls.current()).accept(tcp).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = certificates
        .and_then(|chain| chain.first())
        .map(|certificate| Identity::of(certificate))
        .ok_or_else(|| io::Error::other("the verifier let a peer without a certificate pass"))?;
    let ended = async move {
        // An error means that the collector ends, and ends its connections itself.
        if generation.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok(Connection {
        stream: Stream::Tls(Box::new(stream)),
        peer: Peer::new(address, Some(identity)),
        ended: Some(Box::pin(ended)),
        _place: place,
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ended) = &mut self.ended
            && ended.as_mut().poll(context).is_ready()
        {
            self.ended = None;
            let message = "the certificate authority was replaced; connect again";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, message)));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        })?;
        Poll::Ready(Ok(()))
    }
}
