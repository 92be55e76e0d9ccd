"""What of KubeRay's RayService and of Kubernetes' pods the files in deploy/ use. Unknown keys are mistakes.

Reduced by hand from the API reference of KubeRay 1.7.1 (ray.io/v1) and from Kubernetes 1.34 (core/v1).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

KUBERAY = "1.7.1"

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(m|Ki|Mi|Gi)?$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Part):
    name: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class SeccompProfile(Part):
    type: Literal["RuntimeDefault"]


class Capabilities(Part):
    drop: list[str]


class SecurityContext(Part):
    """Of a container: each of these has to be said."""

    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(ge=1)]
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Capabilities
    seccompProfile: SeccompProfile


class VolumeMount(Part):
    name: str
    mountPath: Annotated[str, Field(pattern="^/")]
    readOnly: bool = False


class Claim(Part):
    claimName: str
    readOnly: bool = False


class Volume(Part):
    name: str
    emptyDir: dict[str, Any] | None = None
    persistentVolumeClaim: Claim | None = None


class Resources(Part):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Port(Part):
    containerPort: int
    name: str


class Exec(Part):
    command: list[str]


class Probe(Part):
    exec: Exec
    periodSeconds: int
    failureThreshold: int


class Container(Part):
    name: str
    image: str
    command: list[str]
    args: list[str]
    securityContext: SecurityContext
    resources: Resources
    volumeMounts: list[VolumeMount]
    ports: list[Port] = []
    startupProbe: Probe | None = None


class PodSecurityContext(Part):
    fsGroup: int


class PodSpec(Part):
    securityContext: PodSecurityContext
    terminationGracePeriodSeconds: int
    topologySpreadConstraints: list[dict[str, Any]] = []
    tolerations: list[dict[str, str]] = []
    containers: list[Container]
    volumes: list[Volume]


class PodTemplate(Part):
    metadata: Metadata
    spec: PodSpec


class HeadGroup(Part):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class AutoscalerOptions(Part):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: int
    securityContext: SecurityContext
    volumeMounts: list[VolumeMount]


class SecretKey(Part):
    name: str
    key: str


class SecretSource(Part):
    secretKeyRef: SecretKey


class RedisCredential(Part):
    valueFrom: SecretSource


class GcsFaultTolerance(Part):
    redisAddress: str
    redisPassword: RedisCredential


class AuthOptions(Part):
    mode: Literal["token", "disabled"]


class RayCluster(Part):
    rayVersion: str
    authOptions: AuthOptions
    gcsFaultToleranceOptions: GcsFaultTolerance
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayServiceSpec(Part):
    excludeHeadPodFromServeSvc: bool
    serveConfigV2: str
    rayClusterConfig: RayCluster


class RayService(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec
